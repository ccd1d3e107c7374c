//! Seeing a tensor as a batch of matrices with one reduced axis, without moving data.

use crate::shape::{Layout, MAX_RANK};

/// One reduction as every backend does it: for each of `batch`·`columns` kept positions, fold `reduced` elements.
/// Either the reduced elements or the columns lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub offset: usize,
    pub batch: usize,
    pub batch_stride: usize,
    pub columns: usize,
    pub column_stride: usize,
    pub reduced: usize,
    pub reduced_stride: usize,
}

impl Plan {
    /// The plan for a layout that has elements, or `None` where a copy or several passes are needed.
    pub fn new(layout: &Layout, selected: &[bool; MAX_RANK]) -> Option<Plan> {
        let axes_where = |reduced: bool| -> Vec<(usize, usize)> {
            (0..layout.shape.rank())
                .filter(|&axis| selected[axis] == reduced && layout.shape[axis] != 1)
                .map(|axis| (layout.shape[axis], layout.strides[axis]))
                .collect()
        };
        // The order of reduced elements is free, so neighbours may be brought together.
        let mut reduced = axes_where(true);
        reduced.sort_by_key(|&(_, stride)| std::cmp::Reverse(stride));
        let (reduced, kept) = (merge(&reduced), merge(&axes_where(false)));
        let (reduced, reduced_stride) = match reduced[..] {
            [] => (1, 1),
            [axis] => axis,
            _ => return None,
        };
        let ((batch, batch_stride), (columns, column_stride)) = match kept[..] {
            [] => ((1, 0), (1, 0)),
            [columns] => ((1, 0), columns),
            [batch, columns] => (batch, columns),
            _ => return None,
        };
        let plan = Plan { offset: layout.offset, batch, batch_stride, columns, column_stride, reduced, reduced_stride };
        (reduced_stride == 1 || column_stride == 1).then_some(plan)
    }

    /// Number of results.
    pub fn kept(&self) -> usize {
        self.batch * self.columns
    }

    /// True when the elements of one result lie side by side; otherwise neighbouring results' do.
    pub fn is_inner(&self) -> bool {
        self.reduced_stride == 1
    }
}

/// Joins axes that are contiguous among themselves.
fn merge(axes: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut merged: Vec<(usize, usize)> = Vec::with_capacity(axes.len());
    for &(extent, stride) in axes {
        match merged.last_mut() {
            Some(last) if last.1 == extent * stride => *last = (last.0 * extent, stride),
            _ => merged.push((extent, stride)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    fn plan(shape: &[usize], axes: &[usize]) -> Option<Plan> {
        let mut selected = [false; MAX_RANK];
        axes.iter().for_each(|&axis| selected[axis] = true);
        Plan::new(&Layout::contiguous(Shape::new(shape).unwrap()), &selected)
    }

    #[test]
    fn contiguous_layouts_need_no_copy() {
        let inner = plan(&[2, 3, 4, 5], &[2, 3]).unwrap();
        assert_eq!((inner.batch, inner.columns, inner.reduced, inner.is_inner()), (1, 6, 20, true));
        let outer = plan(&[2, 3, 4, 5], &[0, 1]).unwrap();
        assert_eq!((outer.columns, outer.reduced, outer.reduced_stride, outer.is_inner()), (20, 6, 20, false));
        let middle = plan(&[2, 3, 4], &[1]).unwrap();
        assert_eq!((middle.batch, middle.batch_stride, middle.columns, middle.reduced), (2, 12, 4, 3));
        assert_eq!(plan(&[2, 3, 4], &[0, 2]), None);
        let all = plan(&[7, 11], &[0, 1]).unwrap();
        assert_eq!((all.kept(), all.reduced), (1, 77));
    }

    #[test]
    fn a_transposed_matrix_is_read_in_storage_order() {
        let layout = Layout::contiguous(Shape::new(&[5, 3]).unwrap());
        let transposed = Layout { shape: Shape::new(&[3, 5]).unwrap(), strides: [1, 3, 0, 0, 0, 0], ..layout };
        let rows = Plan::new(&transposed, &[false, true, false, false, false, false]).unwrap();
        assert_eq!((rows.columns, rows.column_stride, rows.reduced, rows.reduced_stride), (3, 1, 5, 3));
        let all = Plan::new(&transposed, &[true, true, false, false, false, false]).unwrap();
        assert_eq!((all.kept(), all.reduced, all.reduced_stride), (1, 15, 1));
    }
}
