//! Cooperative matrices of f16 in containers of 16 bytes. WGSL's pointers to them point to elements or to vectors of four, of
//! 8 bytes, and half-size loads and stores cost such kernels a tenth of their speed (H200). So the text declares the operands
//! as matrices and vectors of f32, which are of the size wanted, and their element type is made f16 in the SPIR-V that naga
//! writes; what is loaded and stored are the same bytes. For Vulkan only.

use std::collections::HashMap;

use super::registers;
use super::spirv::{HEADER, instructions, operation};

/// The numbers of the instructions and operands that matter here (SPIR-V 1.6, SPV_KHR_cooperative_matrix).
mod spirv {
    pub const CAPABILITY: u32 = 17;
    pub const TYPE_FLOAT: u32 = 22;
    pub const CONSTANT: u32 = 43;
    pub const TYPE_COOPERATIVE_MATRIX: u32 = 4456;
    pub const CAPABILITY_FLOAT16: u32 = 9;
    /// The uses of a matrix: A is 0, B is 1.
    pub const LAST_OPERAND_USE: u32 = 1;
}

/// Compiles a kernel's WGSL, without checks at run time, makes its cooperative operands f16, and writes the bodies of the
/// functions that [`registers`] knows.
///
/// # Errors
/// naga's words.
pub(crate) fn compile(wgsl: &str, entry: &str) -> Result<Vec<u32>, String> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|error| error.emit_to_string(wgsl))?;
    let mut validator =
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
    let info = validator.validate(&module).map_err(|error| error.emit_to_string(wgsl))?;
    let unchecked = naga::proc::BoundsCheckPolicy::Unchecked;
    let options = naga::back::spv::Options {
        lang_version: (1, 6),
        flags: naga::back::spv::WriterFlags::empty(),
        bounds_check_policies: naga::proc::BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: naga::back::spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..Default::default()
    };
    let entry =
        naga::back::spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: entry.into() };
    let words =
        naga::back::spv::write_vec(&module, &info, &options, Some(&entry)).map_err(|error| error.to_string())?;
    Ok(registers::filled(&halved(&words)))
}

/// The module with f16 in place of f32 as the element type of its cooperative matrices A and B. It has no f16 type of its
/// own.
fn halved(words: &[u32]) -> Vec<u32> {
    let header = &words[..HEADER];
    let mut halved = header.to_vec();
    // Ids are below the number in the header's fourth word.
    let half = header[3];
    halved[3] += 1;
    let mut constants = HashMap::new();
    let mut has_capability = false;
    for instruction in instructions(words) {
        let operation = operation(instruction);
        if operation != spirv::CAPABILITY && !has_capability {
            halved.extend([2 << 16 | spirv::CAPABILITY, spirv::CAPABILITY_FLOAT16]);
            has_capability = true;
        }
        let start = halved.len();
        halved.extend_from_slice(instruction);
        match *instruction {
            [_, _, id, value] if operation == spirv::CONSTANT => {
                constants.insert(id, value);
            }
            [_, _, 32, ..] if operation == spirv::TYPE_FLOAT => {
                halved.extend([3 << 16 | spirv::TYPE_FLOAT, half, 16]);
            }
            [_, _, _, _, _, _, role]
                if operation == spirv::TYPE_COOPERATIVE_MATRIX
                    && constants.get(&role).is_some_and(|&role| role <= spirv::LAST_OPERAND_USE) =>
            {
                halved[start + 2] = half;
            }
            _ => {}
        }
    }
    halved
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        enable wgpu_cooperative_matrix;
        @group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
        @compute @workgroup_size(32)
        fn main() {
            let a = coopLoadT<coop_mat16x16<f32, A>>(&x[0], 2u);
            let b = coopLoad<coop_mat16x16<f32, B>>(&x[32], 2u);
            let sum = coopMultiplyAdd(a, b, coop_mat16x16<f32, C>());
            coopStoreT(sum, &x[64], 4u);
        }";

    /// Operation and operands of each instruction.
    fn instructions(words: &[u32]) -> Vec<(u32, Vec<u32>)> {
        super::instructions(words).map(|instruction| (operation(instruction), instruction[1..].to_vec())).collect()
    }

    #[test]
    fn operands_become_f16_and_sums_stay() {
        let found = instructions(&compile(TEXT, "main").unwrap());
        let float = |bits| {
            let types: Vec<_> =
                found.iter().filter(|(op, words)| *op == spirv::TYPE_FLOAT && words[1] == bits).collect();
            assert_eq!(types.len(), 1, "one type of {bits} bits");
            types[0].1[0]
        };
        let of_use = |number: u32| {
            let constant =
                |(op, words): &(u32, Vec<u32>)| (*op == spirv::CONSTANT && words[2] == number).then(|| words[1]);
            let constants: Vec<u32> = found.iter().filter_map(constant).collect();
            let matrix =
                |(op, words): &&(u32, Vec<u32>)| *op == spirv::TYPE_COOPERATIVE_MATRIX && constants.contains(&words[5]);
            found.iter().filter(matrix).map(|(_, words)| words[1]).collect::<Vec<_>>()
        };
        assert_eq!(of_use(0), [float(16)]);
        assert_eq!(of_use(1), [float(16)]);
        assert_eq!(of_use(2), [float(32)]);
        assert!(found.contains(&(spirv::CAPABILITY, vec![spirv::CAPABILITY_FLOAT16])));
    }

    #[test]
    fn errors_are_told() {
        assert!(compile("fn main() { nonsense }", "main").unwrap_err().contains("nonsense"));
    }
}
