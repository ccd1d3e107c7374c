//! Files of tensors.

use std::fs;

use serde_json::json;

use crate::{Case, case, file, model, tensors};

/// A safetensors file of a header and so many bytes of data.
pub fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

pub fn cases() -> Vec<Case> {
    let mut cases = headers();
    cases.extend(indices());
    cases.extend(torch_files());
    cases.extend(models());
    cases
}

fn headers() -> Vec<Case> {
    let one = |fields: &str| safetensors(&format!("{{\"a\":{{{fields}}}}}"), 8);
    let two = |first: &str, second: &str| {
        let tensor = |place: &str| format!("{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{place}}}");
        safetensors(&format!("{{\"a\":{},\"b\":{}}}", tensor(first), tensor(second)), 8)
    };
    let broken = [
        ("an empty file", Vec::new()),
        ("a header without end", u64::MAX.to_le_bytes().to_vec()),
        ("a header longer than the file", 1000u64.to_le_bytes().to_vec()),
        ("a header of no bytes", vec![0; 16]),
        ("a header that is not UTF-8", [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat()),
        ("a header that is no JSON", safetensors("{\"a\":", 0)),
        ("a header that is a list", safetensors("[]", 0)),
        ("a header nested a hundred thousand times", safetensors(&"[".repeat(100_000), 0)),
        ("an unknown element type", one("\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]")),
        ("a negative extent", one("\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]")),
        ("an extent that is no whole number", one("\"dtype\":\"F32\",\"shape\":[0.5],\"data_offsets\":[0,8]")),
        (
            "extents whose product overflows",
            one("\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,8]"),
        ),
        ("an extent of more bytes than there are", one("\"dtype\":\"F32\",\"shape\":[9],\"data_offsets\":[0,8]")),
        ("places that run backwards", one("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]")),
        ("places beyond the file", one("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]")),
        ("three places", one("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4,8]")),
        ("no places", one("\"dtype\":\"F32\",\"shape\":[2]")),
        ("tensors that overlap", two("[0,4]", "[2,6]")),
        ("tensors that begin in the same place", two("[0,4]", "[0,8]")),
        ("a hole between tensors", two("[0,4]", "[6,10]")),
        ("a name twice", {
            let tensor = "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}";
            safetensors(&format!("{{{tensor},{tensor}}}"), 8)
        }),
        ("data cut short", safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7)),
        (
            "data after the last tensor",
            safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9),
        ),
    ];
    let mut cases: Vec<Case> = broken
        .into_iter()
        .map(|(name, bytes)| file(&format!("safetensors: {name}"), tensors, "model.safetensors", bytes))
        .collect();
    cases.push(case("safetensors: a directory", tensors, |directory| {
        fs::remove_file(directory.join("model.safetensors")).unwrap();
        fs::create_dir(directory.join("model.safetensors")).unwrap();
    }));
    #[cfg(unix)]
    for (name, target) in [("a device that never ends", "/dev/zero"), ("a link to itself", "model.safetensors")] {
        cases.push(case(&format!("safetensors: {name}"), tensors, move |directory| {
            fs::remove_file(directory.join("model.safetensors")).unwrap();
            std::os::unix::fs::symlink(target, directory.join("model.safetensors")).unwrap();
        }));
    }
    cases
}

/// Checkpoints of which the index is wrong; the model's file is the only shard.
fn indices() -> Vec<Case> {
    let index = |name: &str, contents: String| {
        case(&format!("index: {name}"), tensors, move |directory| {
            fs::rename(directory.join("model.safetensors"), directory.join("shard.safetensors")).unwrap();
            fs::write(directory.join("model.safetensors.index.json"), &contents).unwrap();
        })
    };
    let shard =
        |name: &str, shard: &str| index(name, json!({ "weight_map": { "model.norm.weight": shard } }).to_string());
    vec![
        index("not JSON", "{".into()),
        index("a list", "[]".into()),
        index("nested a hundred thousand times", "{\"weight_map\":".repeat(100_000)),
        index("no weight_map", "{\"metadata\":{}}".into()),
        index("weight_map is a list", "{\"weight_map\":[]}".into()),
        index("a shard that is a number", "{\"weight_map\":{\"a\":3}}".into()),
        index("a tensor that its shard lacks", json!({ "weight_map": { "b": "shard.safetensors" } }).to_string()),
        shard("a shard that is missing", "other.safetensors"),
        shard("a shard above the directory", "../shard.safetensors"),
        shard("a shard below the directory", "sub/shard.safetensors"),
        shard("a shard at an absolute path", "/etc/passwd"),
        shard("a shard on a drive", "C:\\shard.safetensors"),
        shard("a shard without name", ""),
        shard("a shard with a zero byte", "shard\0.safetensors"),
    ]
}

/// A zip archive of stored entries: local headers, contents, directory.
fn zip(entries: &[(&str, &[u8])], method: u16) -> Vec<u8> {
    let (mut archive, mut listing) = (Vec::new(), Vec::new());
    for (name, contents) in entries {
        let offset = archive.len() as u32;
        let (length, size) = ((name.len() as u16).to_le_bytes(), (contents.len() as u32).to_le_bytes());
        // From the method to the length of the extra field, as both headers have it.
        let common = [&[0; 4][..], &method.to_le_bytes(), &[0; 8], &size, &size, &length, &[0, 0]].concat();
        archive.extend([&b"PK\x03\x04"[..], &common, name.as_bytes(), contents].concat());
        listing.extend([&b"PK\x01\x02\x14\0"[..], &common, &[0; 10], &offset.to_le_bytes(), name.as_bytes()].concat());
    }
    let (count, start) = ((entries.len() as u16).to_le_bytes(), (archive.len() as u32).to_le_bytes());
    let length = (listing.len() as u32).to_le_bytes();
    archive.extend(listing);
    archive.extend([&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &length, &start, &[0, 0]].concat());
    archive
}

/// A pickle of one tensor `a` of four numbers: its storage, its place in it and its strides.
fn pickle(elements: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let numbers = |numbers: &[u8]| {
        let pushed: Vec<u8> = numbers.iter().flat_map(|&number| [b'K', number]).collect();
        [&b"("[..], &pushed, b"t"].concat()
    };
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let storage = [
        b"(".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        vec![b'K', elements],
        b"tQ".to_vec(),
    ]
    .concat();
    let ordered = b"ccollections\nOrderedDict\n)R".to_vec();
    let tensor = [
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        storage,
        b"K\x00".to_vec(),
        numbers(shape),
        numbers(strides),
        b"\x89".to_vec(),
        ordered,
        b"tR".to_vec(),
    ]
    .concat();
    [b"\x80\x02}".to_vec(), text("a"), tensor, b"s.".to_vec()].concat()
}

fn torch_files() -> Vec<Case> {
    let torch = |name: &str, contents: Vec<u8>| {
        case(&format!("torch: {name}"), tensors, move |directory| {
            fs::remove_file(directory.join("model.safetensors")).unwrap();
            fs::write(directory.join("pytorch_model.bin"), &contents).unwrap();
        })
    };
    let archive = |pickle: &[u8], data: &[u8]| zip(&[("x/data.pkl", pickle), ("x/data/0", data)], 0);
    let good = pickle(4, &[2, 2], &[2, 1]);
    let whole = archive(&good, &[0; 16]);
    vec![
        torch("an empty file", Vec::new()),
        torch("no archive", b"#!/bin/sh\n".to_vec()),
        torch("an archive cut short", whole[..whole.len() - 30].to_vec()),
        torch("an archive without pickle", zip(&[("x/other", b"")], 0)),
        torch("two pickles", zip(&[("x/data.pkl", &good), ("y/data.pkl", &good)], 0)),
        torch("a name twice", zip(&[("x/data.pkl", &good), ("x/data.pkl", &good)], 0)),
        torch("compressed entries, as in a zip bomb", zip(&[("x/data.pkl", &good)], 8)),
        torch("big-endian numbers", zip(&[("x/data.pkl", &good), ("x/data/0", &[0; 16]), ("x/byteorder", b"big")], 0)),
        torch("a storage that is missing", zip(&[("x/data.pkl", &good)], 0)),
        torch("a storage cut short", archive(&good, &[0; 15])),
        torch("a view larger than its storage", archive(&pickle(4, &[3, 2], &[2, 1]), &[0; 16])),
        torch("a view that repeats its storage", archive(&pickle(4, &[200, 200], &[0, 0]), &[0; 16])),
        torch("strides beyond the storage", archive(&pickle(4, &[2, 2], &[200, 1]), &[0; 16])),
        torch("more strides than axes", archive(&pickle(4, &[2, 2], &[4, 2, 1]), &[0; 16])),
        torch("nine axes", archive(&pickle(4, &[1; 9], &[1; 9]), &[0; 16])),
        torch("a call of the system", archive(b"\x80\x02cos\nsystem\n(X\x02\0\0\0lstR.", b"")),
        torch("a call of eval", archive(b"\x80\x02cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.", b"")),
        torch("an object's state", archive(b"\x80\x02K\x01}b.", b"")),
        torch("a pickle cut short", archive(&good[..good.len() - 3], &[0; 16])),
        torch("a pickle of another protocol", archive(b"\x80\x05.", b"")),
        torch("a text longer than the pickle", archive(b"\x80\x02X\xff\xff\xff\xffa.", b"")),
        torch("nothing but marks", archive(&[&b"\x80\x02"[..], &[b'('; 100_000], b"."].concat(), b"")),
        torch("a number instead of tensors", archive(b"\x80\x02K\x01.", b"")),
    ]
}

/// Files that are sound and are not this model.
fn models() -> Vec<Case> {
    vec![
        case("model: no file of tensors", model, |directory| {
            fs::remove_file(directory.join("model.safetensors")).unwrap();
        }),
        case("model: tensors of another model", model, |directory| {
            let header = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
            fs::write(directory.join("model.safetensors"), safetensors(header, 8)).unwrap();
        }),
    ]
}
