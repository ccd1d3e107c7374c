//! Kernels that treat several tensors in one dispatch, so that many small adapters do not cost a launch each.
//!
//! Such a kernel has a number of slots; a slot is one tensor with the buffers that belong to it, all bound whole.
//! The elements of the slots form one range: slot `s` is `bounds[s]..bounds[s + 1]`. A template's sections between
//! the lines `// for each slot` and `// end` are repeated with `SLOT` replaced by 0, 1, ….

use std::ops::Range;

use crate::gpu::Gpu;

/// Slots of one kernel at the most: their sizes and offsets must fit the parameter block.
pub(super) const SLOTS: usize = 8;

/// Elements of one dispatch at the most, so that positions of the last workgroup stay within u32.
const MAX_ELEMENTS: usize = 1 << 31;

/// Slots that a kernel with `per_slot` buffers a slot and `shared` further ones may have on this device.
pub(super) fn capacity(gpu: &Gpu, per_slot: usize, shared: usize) -> usize {
    capacity_up_to(gpu, per_slot, shared, SLOTS)
}

/// As [`capacity`], for a kernel whose parameters have room for `most` slots.
pub(super) fn capacity_up_to(gpu: &Gpu, per_slot: usize, shared: usize, most: usize) -> usize {
    // One binding is left for the parameter block of devices without immediates.
    (gpu.max_storage_buffers().saturating_sub(shared + 1) / per_slot).clamp(1, most)
}

/// Divides tensors of these sizes among dispatches, in order: at most `slots` tensors and 2³¹ elements in each.
pub(super) fn runs(sizes: &[usize], slots: usize) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut elements) = (0, 0);
    for (index, &size) in sizes.iter().enumerate() {
        if index > start && (index - start == slots || elements + size > MAX_ELEMENTS) {
            runs.push(start..index);
            (start, elements) = (index, 0);
        }
        elements += size;
    }
    if start < sizes.len() {
        runs.push(start..sizes.len());
    }
    runs
}

/// Divides items among launches that take at most `most` items that are alike. Groups and the items in them keep their order.
pub(super) fn groups<T>(
    items: impl IntoIterator<Item = T>,
    most: usize,
    alike: impl Fn(&T, &T) -> bool,
) -> Vec<Vec<T>> {
    let mut groups: Vec<Vec<T>> = Vec::new();
    for item in items {
        match groups.iter_mut().find(|group| group.len() < most && alike(&group[0], &item)) {
            Some(group) => group.push(item),
            None => groups.push(vec![item]),
        }
    }
    groups
}

/// Where each slot begins and ends in the range of all elements; unused slots are empty.
pub(super) fn bounds(sizes: impl IntoIterator<Item = usize>) -> [u32; SLOTS + 1] {
    let mut bounds = [0; SLOTS + 1];
    let mut end = 0;
    let mut sizes = sizes.into_iter();
    for bound in &mut bounds[1..] {
        end += sizes.next().unwrap_or(0) as u32;
        *bound = end;
    }
    bounds
}

/// As [`expand`], for a kernel whose slots have lines in a buffer `table`: with the constant `SLOTS` and the function
/// `slot_of` of `slots.wgsl`.
pub(super) fn expand_with_table(template: &str, slots: usize) -> String {
    format!("const SLOTS: u32 = {slots}u;\n{}{}", expand(template, slots), include_str!("slots.wgsl"))
}

/// The template with its slot sections repeated.
pub(super) fn expand(template: &str, slots: usize) -> String {
    let mut text = String::with_capacity(template.len() * 2);
    let mut section: Option<String> = None;
    for line in template.lines() {
        match (line.trim(), &mut section) {
            ("// for each slot", None) => section = Some(String::new()),
            ("// end", Some(body)) => {
                for slot in 0..slots {
                    text += &body.replace("SLOT", &slot.to_string());
                }
                section = None;
            }
            (_, Some(body)) => *body += &(line.to_string() + "\n"),
            (_, None) => text += &(line.to_string() + "\n"),
        }
    }
    debug_assert!(section.is_none(), "a slot section has no end");
    text
}

#[cfg(test)]
mod tests {
    use super::{MAX_ELEMENTS, bounds, expand, groups, runs};

    #[test]
    fn runs_keep_order_and_limits() {
        assert!(runs(&[], 4).is_empty());
        assert_eq!(runs(&[1, 2, 3, 4, 5], 2), [0..2, 2..4, 4..5]);
        assert_eq!(runs(&[MAX_ELEMENTS, 1, MAX_ELEMENTS - 1, 7], 8), [0..1, 1..3, 3..4]);
        assert_eq!(bounds([3, 0, 4]), [0, 3, 3, 7, 7, 7, 7, 7, 7]);
    }

    #[test]
    fn groups_are_of_alike_items() {
        let parity = |a: &i32, b: &i32| a % 2 == b % 2;
        assert_eq!(groups([1, 3, 2, 5, 7, 4], 3, parity), [vec![1, 3, 5], vec![2, 4], vec![7]]);
        assert_eq!(groups([1, 3], 1, parity), [[1], [3]]);
        assert!(groups([], 3, parity).is_empty());
    }

    #[test]
    fn sections_are_repeated() {
        let text = expand("a\n  // for each slot\nx_SLOT[SLOT + 1]\n// end\nb\n", 2);
        assert_eq!(text, "a\nx_0[0 + 1]\nx_1[1 + 1]\nb\n");
    }
}
