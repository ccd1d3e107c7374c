"""Puts deliberate faults into the numerical core and asks the tests (Linux; needs a clean checkout that may be spoilt).

    python3 docs/checks/mutations.py CHECKOUT [PARTS OF NAMES] > results.txt

All faults are compiled at once, each behind a name that the environment variable MUTANT switches on, so that one build serves
for all of them. A fault in Rust is an expression that is replaced by another, one in WGSL a text that is replaced when a kernel is
built. Each line of the result is the fault, its file and the tests that failed.
"""

import os
import pathlib
import re
import subprocess
import sys

# name, file, the right text, the wrong one, and where to look: crate or crate/test, and after a colon a part of the tests' names.
RUST = [
    ("wrong sign of a difference's derivative", "autograd/src/rules/arithmetic.rs",
     "b.map(|b| unbroadcast(dy, &b)?.neg()).transpose()?", "b.map(|b| unbroadcast(dy, &b)).transpose()?", "autograd:arithmetic"),
    ("wrong sign of a quotient's derivative", "autograd/src/rules/arithmetic.rs",
     "unbroadcast(&quotient.mul(&y)?, &b_shape)?.neg()", "unbroadcast(&quotient.mul(&y)?, &b_shape)", "autograd:arithmetic"),
    ("a mean's derivative without the count", "autograd/src/rules/reduce.rs",
     "expand.apply(&dy.affine(1.0 / count as f32, 0.0)?)", "expand.apply(dy)", "autograd:reduce"),
    ("a product's derivative without its factor", "autograd/src/rules/matmul.rs",
     "scaled_view(&unbroadcast(&product, &right_shape)?, self.alpha)",
     "scaled_view(&unbroadcast(&product, &right_shape)?, 1.0)", "autograd:matmul"),
    ("a rotation's derivative turns the same way", "autograd/src/rules/rotary.rs",
     "tensor::rotary_backward(dy, &cos, &sin)", "tensor::rotary(dy, &cos, &sin)", "autograd:rotary"),
    ("dropout's derivative with the next step's key", "autograd/src/rules/dropout.rs",
     "dy.dropout(probability, key)", "dy.dropout(probability, RandomKey { step: key.step + 1, ..key })", "autograd:dropout"),
    ("a loss divided by one label too many", "autograd/src/rules/loss.rs",
     "1.0 / valid as f32", "1.0 / (valid + 1) as f32", "autograd:loss lora:trainer models/llama_golden:cpu"),
    ("warm-up one step ahead", "autograd/src/schedule.rs",
     "step as f64 / self.warmup_steps as f64", "(step + 1) as f64 / self.warmup_steps as f64", "autograd:schedule"),
    ("AdamW never counts its steps", "autograd/src/optimizer/adamw.rs", "*steps += 1", "*steps += 0", "autograd:optimizer"),
    ("softmax's derivative without the row's sum (CPU)", "tensor/src/ops/softmax/cpu.rs",
     "y * (dy - total)", "y * dy", "tensor:softmax"),
    ("layer normalisation's derivative without the mean (CPU)", "tensor/src/ops/norm/cpu.rs",
     "scale * (dy * w - mean_g - (x - mean) * scale * mean_gx)", "scale * (dy * w - (x - mean) * scale * mean_gx)", "tensor:norm::"),
    ("normalisation without epsilon (CPU)", "tensor/src/ops/norm/cpu.rs",
     "(square + f64::from(epsilon)).sqrt()", "square.sqrt()", "tensor:norm::"),
    ("dropout without its scale", "tensor/src/ops/dropout/mod.rs", "(1.0 / (1.0 - wide)) as f32", "1.0f32", "tensor:dropout"),
    ("cross entropy's derivative without the label (CPU)", "tensor/src/ops/cross_entropy/cpu.rs",
     "scale * (math::exp(row[label as usize] - sum) - 1.0)", "scale * math::exp(row[label as usize] - sum)", "tensor:cross_entropy"),
    ("causal mask one key too short (CPU)", "tensor/src/ops/attention/cpu/mod.rs",
     "first_query + problem.query_offset", "(first_query + problem.query_offset).saturating_sub(1)", "tensor:attention::tests"),
    ("causal mask one key too far (CPU)", "tensor/src/ops/attention/cpu/mod.rs",
     "(key - self.position).min(LANES)", "(key - self.position - 1).min(LANES)", "tensor:attention::tests"),
    ("attention's derivative without its row term (CPU)", "tensor/src/ops/attention/cpu/backward.rs",
     "(difference[lane] - delta[lane])", "difference[lane]", "tensor:attention::tests"),
    ("a gate's derivative with the wrong slope (CPU)", "tensor/src/ops/gated_unit/cpu.rs",
     "(1.0 + gate * (1.0 - s))", "(1.0 + gate * s)", "tensor:gated_unit"),
    ("AdamW without bias correction (CPU)", "tensor/src/ops/adamw_update/cpu.rs",
     "(v.sqrt() / c.root_correction + c.epsilon)", "(v.sqrt() + c.epsilon)", "tensor:adamw autograd:optimizer"),
    ("AdamW without decay (CPU)", "tensor/src/ops/adamw_update/cpu.rs", "*p * c.decay", "*p", "tensor:adamw autograd:optimizer"),
    ("momentum without damping (CPU)", "tensor/src/ops/sgd_update/cpu.rs", "c.momentum * *b + g", "*b + g", "tensor:sgd autograd:optimizer"),
    ("clipping that raises small gradients (CPU)", "tensor/src/ops/global_norm/cpu.rs",
     "(max_norm / (sum.sqrt() + NORM_EPSILON)).min(1.0)", "max_norm / (sum.sqrt() + NORM_EPSILON)", "tensor:global_norm"),
    ("first moments stale after RefLoRA-S (CPU)", "tensor/src/ops/balance/cpu.rs",
     "scale(first, p.recip())", "scale(first, 1.0)", "tensor:balance reflora/methods"),
    ("second moments scaled like the first after RefLoRA-S (CPU)", "tensor/src/ops/balance/cpu.rs",
     "scale(second, (p * p).recip())", "scale(second, p.recip())", "tensor:balance reflora/methods"),
    ("A's gradient without the adapter's scaling", "lora/src/linear/adapted.rs",
     "right.t()?.matmul_scaled(&left, scaling)?", "right.t()?.matmul_scaled(&left, 1.0)?", "lora:linear"),
    ("A's gradient without the adapter's scaling (mixed)", "lora/src/linear/mixed.rs",
     "FactorGradient { matrix: &x, projection: g, like: a, alpha: *scaling }",
     "FactorGradient { matrix: &x, projection: g, like: a, alpha: 1.0 }", "lora:linear"),
    ("a factor's gradient without the rows' scales (mixed)", "tensor/src/ops/low_rank/composed.rs",
     "thin.mul(&scales.unsqueeze(1)?)?", "thin.clone()", "tensor:low_rank"),
    ("a bias that is forgotten (mixed)", "tensor/src/ops/matmul/row_scaled.rs",
     "[bias, onto.as_ref()]", "[None, onto.as_ref()]", "tensor:low_rank lora:linear"),
    ("A's gradient without dropout", "lora/src/linear/adapted.rs",
     "Dropout::apply(dropout, &self.x.into_rows()?)?", "self.x.into_rows()?", "lora:linear"),
    ("an initial product that is added", "lora/src/linear/adapted.rs",
     "output.matmul_accumulate(&rows.matmul(&a0.t()?)?, &b0.t()?, -scaling)?",
     "output.matmul_accumulate(&rows.matmul(&a0.t()?)?, &b0.t()?, scaling)?", "lora:subtraction lora:linear"),
    ("an adapter taken out is put in again", "lora/src/merge.rs", "sign * factors.scaling", "factors.scaling", "lora:merge"),
    ("DoRA divides by squared lengths", "lora/src/linear/decomposed.rs",
     "weight.cast(DType::F32)?.matmul_accumulate(b, a, scaling)?.square()?.sum(&[1], false)?.sqrt()",
     "weight.cast(DType::F32)?.matmul_accumulate(b, a, scaling)?.square()?.sum(&[1], false)", "lora:linear"),
    ("labels that are not shifted", "lora/src/sources.rs",
     "&self.tokens[start + 1..=start + self.sequence]", "&self.tokens[start..start + self.sequence]", "lora:sources"),
    ("micro-batches weigh the same whatever they hold", "lora/src/trainer/mod.rs",
     "(host.valid() as f64 / valid as f64) as f32", "1.0f32", "lora:trainer"),
    ("all micro-batches of a step share their dropout", "lora/src/trainer/mod.rs",
     "step * self.options.gradient_accumulation + position as u64", "step * self.options.gradient_accumulation", "lora:trainer"),
    ("a resumed run starts its optimizer again", "lora/src/trainer/mod.rs",
     "self.optimizer.load_state(TensorFile::parse(&path, &bytes)?.into_tensors(&device)?)?", "()", "lora:trainer"),
    ("RefLoRA refactors one step late", "reflora/src/full.rs",
     "since.is_multiple_of(interval)", "(since + 1).is_multiple_of(interval + 1)", "reflora/methods"),
    ("scaled gradients by the wrong factor", "reflora/src/scaled.rs",
     "(of_b.matmul(a)?, b.matmul(&of_a)?)", "(of_a.matmul(a)?, b.matmul(&of_b)?)", "reflora/methods"),
    ("fusion forgets the adapter's scaling", "relora/src/fusion.rs",
     "(sigma / self.scaling.abs()).sqrt()", "sigma.sqrt()", "relora/fusion"),
    ("the pull to the start ignores the learning rate", "relora/src/regulariser.rs",
     "f64::from(learning_rate) * self.schedule.at(step)", "self.schedule.at(step)", "relora/fine_tuning"),
    ("rotary frequencies an octave off", "models/src/llama/rotary.rs",
     "(2 * i) as f32 / config.head_dim as f32", "i as f32 / config.head_dim as f32", "models:rotary"),
    ("relative positions mirrored", "models/src/deberta/positions.rs",
     "relative.signum() * ((octaves * (middle - 1.0)).ceil() + middle) as i64",
     "((octaves * (middle - 1.0)).ceil() + middle) as i64", "models:positions"),
    ("gradients of several outputs in the wrong order", "autograd/src/walk.rs", "upstream.reverse()", "()", "autograd:walk lora:together"),
    ("an upload goes ahead of commands that are recorded", "tensor/src/gpu/transfer.rs",
     "last_batch == stream.batch", "false", "tensor:uploads_wait"),
    ("an upload goes ahead of commands on their way", "tensor/src/gpu/transfer.rs",
     "!stream.sender.has_submitted(last_batch)", "false", "tensor:uploads_wait"),
    ("a measured choice is not kept", "tensor/src/gpu/tuner.rs", "table.choose(product, best.to_string())", "drop(product)", "tensor:tun"),
    ("a residual's gradient with the wrong sign", "lora/src/linear/mixed.rs",
     "dy.clone().into_tensor()?", "dy.clone().into_tensor()?.neg()?", "lora:together"),
    ("a last layer's value is always left out", "autograd/src/tape.rs",
     "!self.state.borrow().output_unread", "self.state.borrow().output_unread", "lora:together"),
    ("rows are read in tiles, tiles in rows", "tensor/src/gpu/tiles.rs",
     "wanted.storage.order.get() == Order::code(wanted.tiles)", "Order::code(wanted.tiles) < u32::MAX", "tensor:tiles"),
    ("a part of a storage in tiles is taken for all of it", "tensor/src/gpu/tiles.rs",
     "is_whole && storage.order.get() == Order::code(Some(self))", "storage.order.get() == Order::code(Some(self))", "tensor:tiles tensor:direct"),
    ("a tape that should keep all computes again", "autograd/src/rounded.rs",
     "keeps || rows.values().elements() * DType::F16.bytes() < SMALL_BYTES",
     "rows.values().elements() * DType::F16.bytes() < SMALL_BYTES", "autograd:rounded"),
    ("all sums times the first of two numbers", "tensor/src/gpu/registers.rs",
     "parameters[1 + element / (ELEMENTS as usize / 2)]", "parameters[1]", "tensor:registers"),
    ("a rounded product with its rows' powers twice", "tensor/src/ops/matmul/row_scaled.rs",
     "RowScaled::from_parts(values, self.rows.scales().clone())",
     "RowScaled::from_parts(values, self.rows.scales().mul(self.rows.scales())?)", "tensor:row_scaled tensor:low_rank"),
    ("a rounded gradient counts for nothing", "autograd/src/rules/activation.rs",
     "kept.backward_rounded(&dy)?", "kept.backward(&dy.restored()?.affine(0.0, 0.0)?)?", "autograd:activation"),
    ("a matrix's halves in the order of its words", "tensor/src/gpu/registers.rs",
     "parameters.len() == 1", "parameters.len() < 3", "tensor:registers"),
]
WGSL = [
    ("no barrier before a softmax's tree of sums (WGSL)", "tensor/src/ops/softmax/kernel.wgsl",
     "fn team_sum(value: f32, local: u32, lane: u32) -> f32 {\n    workgroupBarrier();\n    scratch[local] = value;\n    workgroupBarrier();",
     "fn team_sum(value: f32, local: u32, lane: u32) -> f32 {\n    workgroupBarrier();\n    scratch[local] = value;", "tensor:softmax"),
    ("no barrier in a tree of squares (WGSL)", "tensor/src/ops/global_norm/sum.wgsl",
     "            sums[local] += sums[local + half];\n        }\n        workgroupBarrier();",
     "            sums[local] += sums[local + half];\n        }", "tensor:global_norm"),
    ("causal mask one key too short (WGSL)", "tensor/src/ops/attention/kernels/common.wgsl",
     "return key <= query + vec4<u32>(params.query_offset);", "return key < query + vec4<u32>(params.query_offset);", "tensor:attention::tests"),
    ("queries take another group's keys (WGSL)", "tensor/src/ops/attention/kernels/forward.wgsl",
     "let kv_head = head / (params.heads / params.kv_heads);", "let kv_head = head % params.kv_heads;", "tensor:attention::tests"),
    ("a softmax that is not rescaled (WGSL)", "tensor/src/ops/attention/kernels/forward.wgsl",
     "exp(maximum0 - shift0)", "1.0", "tensor:attention::tests"),
    ("AdamW's second moment of gradients that are not squared (WGSL)", "tensor/src/ops/adamw_update/kernel.wgsl",
     "params.one_minus_beta2 * (g * g)", "params.one_minus_beta2 * g", "tensor:adamw"),
    ("no barrier between a product's slabs (WGSL)", "tensor/src/ops/matmul/generator.rs",
     "        workgroupBarrier();\n        if (!more) {", "        if (!more) {", "tensor:matmul"),
    ("the rows of rounded heads' chunks exchanged (WGSL)", "tensor/src/ops/mixed_attention/place_in_storage.wgsl",
     "return tile * 128u + chunk * 2u + row % 2u;", "return tile * 128u + chunk * 2u + 1u - row % 2u;", "tensor:mixed_attention::direct"),
    ("tiles with neighbouring quads side by side (WGSL)", "tensor/src/gpu/tiles.wgsl",
     "half * 2u + lane % 2u + lane / 2u * 4u;", "half * 4u + lane;", "tensor:tiles"),
    ("halves of a left operand's tiles exchanged (WGSL)", "tensor/src/gpu/left_chunk.wgsl",
     "row / 32u * 2u + row % 4u / 2u", "row / 32u * 2u + 1u - row % 4u / 2u", "tensor:row_scaled tensor:mixed_attention::direct"),
    ("words of two rows one after another (WGSL)", "tensor/src/ops/row_scaled/generator.rs",
     ")).xzyw;", "));", "tensor:row_scaled"),
    ("another row's words of an output in tiles (WGSL)", "tensor/src/ops/mixed_attention/round_upstream.wgsl",
     "let is_upper = row % 2u == 0u;", "let is_upper = row % 2u == 1u;", "tensor:mixed_attention::direct"),
    ("a factor's words in the wrong half of their chunk (WGSL)", "tensor/src/ops/low_rank/factor.wgsl",
     "row % 2u * 2u + column / 2u % 2u;", "row % 2u + column / 2u % 2u * 2u;", "tensor:low_rank"),
    ("the first half of packed rows twice (WGSL)", "tensor/src/ops/matmul/cooperative/direct/pack.wgsl",
     "min(upper_row + 1u, params.rows - 1u)", "min(upper_row, params.rows - 1u)", "tensor:direct"),
]
FEATURES = ",".join(f"{crate}/gpu-tests" for crate in ("tensor", "autograd", "lora", "reflora", "relora", "models"))

SWITCH = '''
/// True for the deliberate fault that the environment variable MUTANT names.
pub fn mutant(name: &str) -> bool {
    static MUTANT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    MUTANT.get_or_init(|| std::env::var("MUTANT").ok()).as_deref() == Some(name)
}
'''


def instrument(checkout):
    for name, file, right, wrong, _ in RUST:
        path = checkout / file
        text = path.read_text()
        code = text.split("#[cfg(test)]\nmod tests {")[0]
        assert code.count(right) == 1, (name, code.count(right))
        switch = "crate::mutant" if file.startswith("tensor/") else "tensor::mutant"
        path.write_text(text.replace(right, f'(if {switch}("{name}") {{ {wrong} }} else {{ {right} }})', 1))
    with open(checkout / "tensor/src/lib.rs", "a") as lib:
        lib.write(SWITCH)
    replacements = "".join(
        f'    if crate::mutant("{name}") {{ text = text.replace({rust_text(right)}, {rust_text(wrong)}); }}\n'
        for name, _, right, wrong, _ in WGSL)
    path = checkout / "tensor/src/gpu/pipeline.rs"
    end = '    [&text, "\\n", PRELUDE, multiply_high].concat()\n'
    text = path.read_text()
    assert text.count(end) == 1
    path.write_text(text.replace(end, "    let mut text = text;\n" + replacements + end))


def rust_text(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def programs(checkout):
    """Test programs by crate and, for integration tests, name."""
    wanted = sorted({where.partition(":")[0] for *_, tests in RUST + WGSL for where in tests.split()})
    names = [name for where in wanted if "/" in where for name in ("--test", where.split("/")[1])]
    command = ["cargo", "test", "--workspace", "--no-run", "--lib", *names, "--features", FEATURES]
    built = subprocess.run(command, cwd=checkout, stderr=subprocess.PIPE, text=True)
    assert built.returncode == 0, built.stderr[-5000:]
    found = {}
    for source, program in re.findall(r"Executable (?:unittests )?(\S+) \((\S+)\)", built.stderr):
        stem = pathlib.Path(program).name.rsplit("-", 1)[0]
        found[stem if "lib.rs" in source else pathlib.Path(source).stem] = checkout / program
    return found


def failures(program, names, crate, checkout, mutant):
    environment = dict(os.environ, MUTANT=mutant, RUST_BACKTRACE="0")
    try:
        run = subprocess.run([program, "-q", *names], cwd=checkout / crate, env=environment, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        return ["(no end)"]
    failed = re.search(r"\nfailures:\n((?:    \S+\n)+)", run.stdout)
    if failed:
        return failed.group(1).split()
    return [] if run.returncode == 0 else [f"(ended with {run.returncode})"]


def main():
    checkout = pathlib.Path(sys.argv[1]).resolve()
    if "--built" not in sys.argv:
        instrument(checkout)
    built = programs(checkout)
    survivors = 0
    parts = [part for part in sys.argv[2:] if part != "--built"]
    faults = [fault for fault in RUST + WGSL if not parts or any(part in fault[0] for part in parts)]
    for name, file, _, _, tests in faults:
        caught = []
        for where in tests.split():
            place, _, names = where.partition(":")
            crate, _, test = place.partition("/")
            caught += failures(built[test or crate], names.split(","), crate, checkout, name)
        survivors += not caught
        print(f"| {name} | `{file}` | {', '.join(f'`{test}`' for test in caught[:3]) or 'SURVIVED'} | {len(caught)} |", flush=True)
    print(f"{len(faults)} faults, {survivors} survived")


main()
