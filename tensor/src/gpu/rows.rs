//! How kernels share out rows: a team of invocations of one workgroup takes one row.

use super::dispatch::linear_grid;

/// Invocations in a workgroup of a row kernel.
pub(crate) const ROW_WORKGROUP: usize = 256;

/// Invocations that work on one row of `columns` elements: a power of two, about four elements each, at most a
/// workgroup. Short rows share a workgroup.
pub(crate) fn row_team(columns: usize) -> usize {
    columns.div_ceil(4).next_power_of_two().min(ROW_WORKGROUP)
}

/// The grid for `rows` rows with teams of `team` invocations; folded into y beyond the device's limit on x.
pub(crate) fn row_grid(rows: usize, team: usize) -> [u32; 3] {
    linear_grid(rows, ROW_WORKGROUP / team)
}

/// Into how many parts to split a reduction, so that no invocation adds up more than `most` numbers one after another
/// (which bounds the rounding error) and few rows still fill a large GPU. `lanes` invocations share each part and
/// `groups` workgroups are there without a split. Depends on the shape alone, so that results do too.
pub(crate) fn reduction_splits(extent: usize, lanes: usize, groups: usize, most: usize) -> usize {
    // About eight workgroups on each of 128 multiprocessors.
    const FULL: usize = 1024;
    // A shorter part would cost more in the second stage than it gains.
    const LEAST: usize = 16;
    let each = extent.div_ceil(lanes);
    each.div_ceil(most).max(FULL.div_ceil(groups.max(1)).min(each / LEAST)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn teams_fit_their_rows() {
        assert_eq!([0, 1, 4, 5, 17, 1024, 1 << 20].map(row_team), [1, 1, 1, 2, 8, 256, 256]);
        assert_eq!(row_grid(9, 64), [3, 1, 1]);
    }

    #[test]
    fn splits_fill_the_device_and_bound_the_error() {
        assert_eq!(reduction_splits(1 << 26, 256, 1, 256), 1024);
        assert_eq!(reduction_splits(1 << 29, 256, 1, 256), 8192);
        assert_eq!(reduction_splits(4096, 256, 4096, 256), 1);
        assert_eq!(reduction_splits(1024, 256, 1, 256), 1);
    }
}
