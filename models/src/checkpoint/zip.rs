//! The table of contents of a zip archive whose entries are stored without compression, as `torch.save` writes them.
//! Zip64 is understood; compressed and encrypted entries are refused. Format: PKWARE APPNOTE.TXT 6.3.10, sections
//! 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (its end), 4.5.3 (zip64 field).

use std::collections::HashMap;
use std::ops::Range;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;
/// Length of the end record without its comment, whose length has 16 bits.
const END_LENGTH: usize = 22;
const LOCATOR64_LENGTH: usize = 20;
const CENTRAL_LENGTH: usize = 46;
const LOCAL_LENGTH: usize = 30;
/// Stands for "see the zip64 field".
const SEE_ZIP64: u32 = u32::MAX;

/// Little-endian numbers out of a slice; `None` past its end.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    number(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn position_at(bytes: &[u8], at: usize) -> Option<usize> {
    number(bytes, at).map(u64::from_le_bytes).and_then(|value| usize::try_from(value).ok())
}

/// Where each entry's bytes lie in the archive, by name. Ranges are within the archive and do not overlap.
pub(super) fn entries(archive: &[u8]) -> Result<HashMap<String, Range<usize>>, String> {
    let directory = directory(archive).ok_or("it has no zip directory at its end: it is truncated or damaged")?;
    let listing = &archive[directory.clone()];
    let mut entries = HashMap::new();
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < listing.len() {
        let (entry, length) = entry(&listing[at..])?;
        at += length;
        let range = data(archive, &entry)
            .filter(|range| range.end <= directory.start)
            .ok_or_else(|| format!("zip entry `{}` does not lie where the directory says", entry.name))?;
        ranges.push(entry.offset..range.end);
        if entries.insert(entry.name.clone(), range).is_some() {
            return Err(format!("zip entry `{}` is there twice", entry.name));
        }
    }
    ranges.sort_by_key(|range| range.start);
    if ranges.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return Err("zip entries overlap".into());
    }
    Ok(entries)
}

/// The place of the central directory.
fn directory(archive: &[u8]) -> Option<Range<usize>> {
    let last = archive.len().checked_sub(END_LENGTH)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    let end = (first..=last).rev().find(|&at| {
        let comment = u16_at(archive, at + 20).map(usize::from);
        u32_at(archive, at) == Some(END) && comment == Some(last - at)
    })?;
    let (size, offset) = (u32_at(archive, end + 12)?, u32_at(archive, end + 16)?);
    let locator = end.checked_sub(LOCATOR64_LENGTH).filter(|&at| u32_at(archive, at) == Some(LOCATOR64));
    let (size, offset) = match locator {
        Some(locator) => {
            let end64 = position_at(archive, locator + 8)?;
            (u32_at(archive, end64)? == END64).then_some(())?;
            (position_at(archive, end64.checked_add(40)?)?, position_at(archive, end64.checked_add(48)?)?)
        }
        None => (usize::try_from(size).ok()?, usize::try_from(offset).ok()?),
    };
    let range = offset..offset.checked_add(size)?;
    (range.end <= end).then_some(range)
}

/// What the central directory says about one entry.
struct Entry {
    name: String,
    /// Where its local header begins.
    offset: usize,
    size: usize,
}

/// The first entry of a listing, and the length of its description.
fn entry(listing: &[u8]) -> Result<(Entry, usize), String> {
    const DAMAGED: &str = "the zip directory is damaged";
    let field = |at| u16_at(listing, at).map(usize::from).ok_or(DAMAGED);
    if u32_at(listing, 0) != Some(CENTRAL) {
        return Err(DAMAGED.into());
    }
    let (flags, method) = (field(8)?, field(10)?);
    let (name_length, extra_length, comment_length) = (field(28)?, field(30)?, field(32)?);
    let name_end = CENTRAL_LENGTH + name_length;
    let name = listing.get(CENTRAL_LENGTH..name_end).and_then(|name| std::str::from_utf8(name).ok()).ok_or(DAMAGED)?;
    let extra = listing.get(name_end..name_end + extra_length).ok_or(DAMAGED)?;
    let length = name_end + extra_length + comment_length;
    if length > listing.len() {
        return Err(DAMAGED.into());
    }
    if flags & 1 != 0 {
        return Err(format!("zip entry `{name}` is encrypted"));
    }
    if method != 0 {
        return Err(format!(
            "zip entry `{name}` is compressed (method {method}); torch.save stores without compression"
        ));
    }
    let sizes = [20, 24, 42].map(|at| u32_at(listing, at));
    let [Some(stored), Some(size), Some(offset)] = sizes else { return Err(DAMAGED.into()) };
    let [stored, size, offset] = widened(extra, size, stored, offset).ok_or(DAMAGED)?;
    if stored != size {
        return Err(format!("zip entry `{name}` has two different sizes"));
    }
    Ok((Entry { name: name.into(), offset, size }, length))
}

/// Stored size, size and offset, from the zip64 field where 32 bits do not hold them: it lists only those that do not,
/// the size first.
fn widened(extra: &[u8], size: u32, stored: u32, offset: u32) -> Option<[usize; 3]> {
    let mut zip64: &[u8] = &[];
    let mut at = 0;
    while let (Some(id), Some(length)) = (u16_at(extra, at), u16_at(extra, at + 2)) {
        let end = at + 4 + usize::from(length);
        if id == 1 {
            zip64 = extra.get(at + 4..end)?;
        }
        at = end;
    }
    let mut place = 0;
    let mut wide = |value: u32| {
        if value != SEE_ZIP64 {
            return usize::try_from(value).ok();
        }
        place += 8;
        position_at(zip64, place - 8)
    };
    let (size, stored, offset) = (wide(size)?, wide(stored)?, wide(offset)?);
    Some([stored, size, offset])
}

/// Where an entry's bytes lie: after its local header, which must bear the same name.
fn data(archive: &[u8], entry: &Entry) -> Option<Range<usize>> {
    let header = archive.get(entry.offset..)?;
    (u32_at(header, 0)? == LOCAL).then_some(())?;
    let (name_length, extra_length) = (usize::from(u16_at(header, 26)?), usize::from(u16_at(header, 28)?));
    (header.get(LOCAL_LENGTH..LOCAL_LENGTH + name_length)? == entry.name.as_bytes()).then_some(())?;
    let start = entry.offset.checked_add(LOCAL_LENGTH + name_length + extra_length)?;
    let end = start.checked_add(entry.size)?;
    (end <= archive.len()).then_some(start..end)
}
