// Reductions within a workgroup, in a fixed order, for the kernels of this folder. Put before a kernel that declares
// `alias Sum`, the type that is added up. All invocations of the workgroup must call them together.
// A workgroup is divided into groups of LANES neighbours; both numbers are powers of two.

override WORKGROUP: u32;
override LANES: u32;

var<workgroup> partial: array<Sum, WORKGROUP>;

// The sum over a group, for all of its invocations.
fn group_sum(local: u32, value: Sum) -> Sum {
    partial[local] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if ((local & (LANES - 1u)) < half) {
            partial[local] += partial[local + half];
        }
        workgroupBarrier();
    }
    let sum = partial[local - (local & (LANES - 1u))];
    workgroupBarrier();
    return sum;
}
