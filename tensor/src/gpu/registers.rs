//! What WGSL cannot say of cooperative matrices: which of their elements an invocation holds. A kernel that reads its operands
//! straight into registers, or wants sums there, declares functions of these types, with any body:
//!
//! - `(vec4<u32>) -> coop_mat16x16<f32, A>`, and the same for B: the invocation's eight elements, two in a word;
//! - `(vec2<u32>, vec2<u32>) -> coop_mat16x16<f32, B>`: the first halves of all four words, then the second ones;
//! - `(coop_mat16x16<f32, C>)` to a structure of two `vec4<f32>`: the invocation's eight sums;
//! - `(coop_mat16x16<f32, C>, f32, f32) -> coop_mat16x16<f32, C>`: the sums, the first four times the first number and the others
//!   times the second.
//!
//! Their bodies are written here, in the SPIR-V that naga made of the text. The loops of such a module are marked as not to be
//! unrolled: unrolled, they need more registers than there are (TFLOP/s at 4096³ on an NVIDIA H200: 288 in place of 223).
//!
//! Which place an element has in a matrix is the device's affair. The kernels assume NVIDIA's order, and those of other devices
//! fail their test.

use std::collections::HashMap;

use super::spirv::{HEADER, instructions, operation};

/// The text of such functions, as kernels declare them.
pub(crate) const DECLARATIONS: &str = include_str!("registers.wgsl");

/// Elements of a matrix of 16 x 16 that each of 32 invocations holds.
const ELEMENTS: u32 = 8;

/// Instructions and operands of SPIR-V 1.6 and SPV_KHR_cooperative_matrix.
mod spirv {
    pub const TYPE_INT: u32 = 21;
    pub const TYPE_FLOAT: u32 = 22;
    pub const TYPE_VECTOR: u32 = 23;
    pub const TYPE_STRUCT: u32 = 30;
    pub const TYPE_POINTER: u32 = 32;
    pub const TYPE_FUNCTION: u32 = 33;
    pub const CONSTANT: u32 = 43;
    pub const FUNCTION: u32 = 54;
    pub const FUNCTION_PARAMETER: u32 = 55;
    pub const FUNCTION_END: u32 = 56;
    pub const VARIABLE: u32 = 59;
    pub const LOAD: u32 = 61;
    pub const STORE: u32 = 62;
    pub const ACCESS_CHAIN: u32 = 65;
    pub const COMPOSITE_CONSTRUCT: u32 = 80;
    pub const COMPOSITE_EXTRACT: u32 = 81;
    pub const BITCAST: u32 = 124;
    pub const MULTIPLY: u32 = 133;
    pub const LOOP_MERGE: u32 = 246;
    pub const LABEL: u32 = 248;
    pub const RETURN_VALUE: u32 = 254;
    pub const TYPE_COOPERATIVE_MATRIX: u32 = 4456;
    /// Storage class.
    pub const FUNCTION_STORAGE: u32 = 7;
    pub const DONT_UNROLL: u32 = 2;
    /// The use of a matrix of sums; operands have smaller numbers.
    pub const ACCUMULATOR: u32 = 2;
}

/// A function whose body is written here.
#[derive(Clone, Copy)]
enum Task {
    /// Words to a matrix of this type.
    Matrix(u32),
    /// Pairs of words to a matrix of this type, all first halves before all second ones.
    Halves(u32),
    /// A matrix of this type to a structure.
    Elements { matrix: u32, structure: u32 },
    /// A matrix of this type and two numbers to the same one, multiplied.
    Scaled(u32),
}

/// The types of a module that matter here.
#[derive(Default)]
struct Types {
    word: u32,
    float: u32,
    half: u32,
    /// Vectors: their elements' type and number.
    vectors: HashMap<u32, (u32, u32)>,
    structures: HashMap<u32, Vec<u32>>,
    /// Cooperative matrices: their use.
    matrices: HashMap<u32, u32>,
    /// Function types and what they ask for.
    tasks: HashMap<u32, Task>,
}

/// The module with the bodies of its functions of the types above; others stay as they are.
pub(super) fn filled(words: &[u32]) -> Vec<u32> {
    let types = Types::of(words);
    if types.tasks.is_empty() {
        return words.to_vec();
    }
    let (header, mut rest) = words.split_at(HEADER.min(words.len()));
    let mut writer = Writer { words: header.to_vec(), next: header[3], helpers: None };
    let mut skipping = false;
    while let [first, ..] = rest {
        let (instruction, following) = rest.split_at(((first >> 16) as usize).clamp(1, rest.len()));
        rest = following;
        match (first & 0xffff, instruction) {
            (spirv::FUNCTION, [_, _, _, _, kind]) => {
                // Types and constants come before the first function.
                if writer.helpers.is_none() {
                    writer.helpers = Some(writer.declare(&types));
                }
                writer.words.extend_from_slice(instruction);
                if let Some(&task) = types.tasks.get(kind) {
                    let mut parameters = Vec::new();
                    while let [first, _, id, ..] = *rest
                        && first & 0xffff == spirv::FUNCTION_PARAMETER
                    {
                        parameters.push(id);
                        writer.words.extend_from_slice(&rest[..3]);
                        rest = &rest[3..];
                    }
                    writer.body(&types, task, &parameters);
                    skipping = true;
                }
            }
            (spirv::FUNCTION_END, _) => {
                skipping = false;
                writer.words.extend_from_slice(instruction);
            }
            _ if skipping => {}
            (spirv::LOOP_MERGE, [_, merge, following, _]) => {
                writer.instruction(spirv::LOOP_MERGE, &[*merge, *following, spirv::DONT_UNROLL]);
            }
            _ => writer.words.extend_from_slice(instruction),
        }
    }
    writer.words[3] = writer.next;
    writer.words
}

impl Types {
    fn of(words: &[u32]) -> Self {
        let (mut types, mut constants) = (Types::default(), HashMap::new());
        for instruction in instructions(words) {
            match (operation(instruction), &instruction[1..]) {
                (spirv::TYPE_INT, &[id, 32, 0]) => types.word = id,
                (spirv::TYPE_FLOAT, &[id, 32, ..]) => types.float = id,
                (spirv::TYPE_FLOAT, &[id, 16, ..]) => types.half = id,
                (spirv::TYPE_VECTOR, &[id, element, count]) => {
                    types.vectors.insert(id, (element, count));
                }
                (spirv::TYPE_STRUCT, [id, members @ ..]) => {
                    types.structures.insert(*id, members.to_vec());
                }
                (spirv::CONSTANT, &[_, id, value]) => {
                    constants.insert(id, value);
                }
                (spirv::TYPE_COOPERATIVE_MATRIX, &[id, _, _, _, _, role]) => {
                    types.matrices.insert(id, constants.get(&role).copied().unwrap_or(u32::MAX));
                }
                (spirv::TYPE_FUNCTION, [id, result, parameters @ ..]) => {
                    if let Some(task) = types.task(*result, parameters) {
                        types.tasks.insert(*id, task);
                    }
                }
                _ => {}
            }
        }
        types
    }

    fn task(&self, result: u32, parameters: &[u32]) -> Option<Task> {
        let is_vector = |id: u32, element: u32, count: u32| self.vectors.get(&id) == Some(&(element, count));
        match (self.matrices.get(&result), parameters) {
            (Some(..spirv::ACCUMULATOR), &[words]) if is_vector(words, self.word, 4) => Some(Task::Matrix(result)),
            (Some(..spirv::ACCUMULATOR), &[first, second])
                if is_vector(first, self.word, 2) && is_vector(second, self.word, 2) =>
            {
                Some(Task::Halves(result))
            }
            (Some(&spirv::ACCUMULATOR), &[matrix, first, second])
                if [matrix, first, second] == [result, self.float, self.float] =>
            {
                Some(Task::Scaled(result))
            }
            (None, &[matrix]) if self.matrices.get(&matrix) == Some(&spirv::ACCUMULATOR) => {
                let members = self.structures.get(&result)?;
                let suits = members.len() == 2 && members.iter().all(|&member| is_vector(member, self.float, 4));
                suits.then_some(Task::Elements { matrix, structure: result })
            }
            _ => None,
        }
    }
}

/// Ids that the bodies need.
struct Helpers {
    pair: u32,
    half_pointer: u32,
    float_pointer: u32,
    /// Pointers to matrices, by their types.
    matrix_pointers: HashMap<u32, u32>,
    /// The numbers from 0.
    numbers: [u32; ELEMENTS as usize],
}

struct Writer {
    words: Vec<u32>,
    /// The first id that is free.
    next: u32,
    helpers: Option<Helpers>,
}

impl Writer {
    fn id(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    fn instruction(&mut self, operation: u32, operands: &[u32]) {
        self.words.push((operands.len() as u32 + 1) << 16 | operation);
        self.words.extend_from_slice(operands);
    }

    /// An instruction with a result of a type.
    fn value(&mut self, operation: u32, kind: u32, operands: &[u32]) -> u32 {
        let id = self.id();
        self.instruction(operation, &[&[kind, id], operands].concat());
        id
    }

    fn pointer(&mut self, kind: u32) -> u32 {
        let id = self.id();
        self.instruction(spirv::TYPE_POINTER, &[id, spirv::FUNCTION_STORAGE, kind]);
        id
    }

    fn declare(&mut self, types: &Types) -> Helpers {
        let pair = self.id();
        self.instruction(spirv::TYPE_VECTOR, &[pair, types.half, 2]);
        let (half_pointer, float_pointer) = (self.pointer(types.half), self.pointer(types.float));
        let mut matrices: Vec<u32> = types.matrices.keys().copied().collect();
        matrices.sort_unstable();
        let matrix_pointers = matrices.into_iter().map(|kind| (kind, self.pointer(kind))).collect();
        let numbers = std::array::from_fn(|number| self.value(spirv::CONSTANT, types.word, &[number as u32]));
        Helpers { pair, half_pointer, float_pointer, matrix_pointers, numbers }
    }

    /// All of a function after its parameters, but its end.
    fn body(&mut self, types: &Types, task: Task, parameters: &[u32]) {
        // Proof: `filled` declares them before the first function.
        let helpers = self.helpers.take().expect("declared helpers");
        let label = self.id();
        self.instruction(spirv::LABEL, &[label]);
        let (Task::Matrix(matrix) | Task::Halves(matrix) | Task::Elements { matrix, .. } | Task::Scaled(matrix)) = task;
        let variable = self.value(spirv::VARIABLE, helpers.matrix_pointers[&matrix], &[spirv::FUNCTION_STORAGE]);
        let result = match task {
            Task::Matrix(_) | Task::Halves(_) => {
                let words = 4 / parameters.len() as u32;
                for place in 0..4 {
                    let vector = parameters[(place / words) as usize];
                    let word = self.value(spirv::COMPOSITE_EXTRACT, types.word, &[vector, place % words]);
                    let pair = self.value(spirv::BITCAST, helpers.pair, &[word]);
                    for part in 0..2 {
                        let half = self.value(spirv::COMPOSITE_EXTRACT, types.half, &[pair, part]);
                        let element = if parameters.len() == 1 { 2 * place + part } else { 4 * part + place };
                        let number = helpers.numbers[element as usize];
                        let to = self.value(spirv::ACCESS_CHAIN, helpers.half_pointer, &[variable, number]);
                        self.instruction(spirv::STORE, &[to, half]);
                    }
                }
                self.value(spirv::LOAD, matrix, &[variable])
            }
            Task::Elements { structure, .. } => {
                self.instruction(spirv::STORE, &[variable, parameters[0]]);
                let elements = helpers.numbers.map(|number| {
                    let from = self.value(spirv::ACCESS_CHAIN, helpers.float_pointer, &[variable, number]);
                    self.value(spirv::LOAD, types.float, &[from])
                });
                let vector = types.structures[&structure][0];
                let [upper, lower] =
                    [0, 4].map(|from| self.value(spirv::COMPOSITE_CONSTRUCT, vector, &elements[from..from + 4]));
                self.value(spirv::COMPOSITE_CONSTRUCT, structure, &[upper, lower])
            }
            Task::Scaled(_) => {
                self.instruction(spirv::STORE, &[variable, parameters[0]]);
                for (element, number) in helpers.numbers.into_iter().enumerate() {
                    let place = self.value(spirv::ACCESS_CHAIN, helpers.float_pointer, &[variable, number]);
                    let found = self.value(spirv::LOAD, types.float, &[place]);
                    let factor = parameters[1 + element / (ELEMENTS as usize / 2)];
                    let product = self.value(spirv::MULTIPLY, types.float, &[found, factor]);
                    self.instruction(spirv::STORE, &[place, product]);
                }
                self.value(spirv::LOAD, matrix, &[variable])
            }
        };
        self.instruction(spirv::RETURN_VALUE, &[result]);
        self.helpers = Some(helpers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        enable wgpu_cooperative_matrix;
        @group(0) @binding(0) var<storage, read_write> x: array<vec4<u32>>;
        struct Elements { upper: vec4<f32>, lower: vec4<f32> }
        fn matrix_a(words: vec4<u32>) -> coop_mat16x16<f32, A> { return coop_mat16x16<f32, A>(); }
        fn matrix_b(first: vec2<u32>, second: vec2<u32>) -> coop_mat16x16<f32, B> { return coop_mat16x16<f32, B>(); }
        fn elements(sum: coop_mat16x16<f32, C>) -> Elements { return Elements(); }
        fn scaled(sum: coop_mat16x16<f32, C>, upper: f32, lower: f32) -> coop_mat16x16<f32, C> { return sum; }
        fn other(words: vec4<u32>) -> vec4<u32> { return words + 1u; }
        @compute @workgroup_size(32)
        fn main() {
            var sum = coop_mat16x16<f32, C>();
            for (var i = 0u; i < 9u; i += 1u) {
                sum = coopMultiplyAdd(matrix_a(x[i]), matrix_b(x[i].xy, x[i].zw), sum);
            }
            let found = elements(scaled(sum, 2.0, 3.0));
            x[0] = other(bitcast<vec4<u32>>(found.upper + found.lower));
        }";

    /// Operation and operands of each instruction.
    fn instructions(words: &[u32]) -> Vec<(u32, Vec<u32>)> {
        super::instructions(words).map(|instruction| (operation(instruction), instruction[1..].to_vec())).collect()
    }

    #[test]
    fn bodies_are_written_and_all_else_stays() {
        let plain = super::super::containers::compile(TEXT, "main").unwrap();
        let found = instructions(&plain);
        let count = |operation: u32| found.iter().filter(|(op, _)| *op == operation).count();
        // Eight elements of each operand, four words of each, eight sums.
        assert_eq!(count(spirv::BITCAST), 8 + 1, "one is the text's own");
        let stores_of_halves =
            found.windows(2).filter(|pair| pair[0].0 == spirv::ACCESS_CHAIN && pair[1].0 == spirv::STORE);
        assert_eq!(stores_of_halves.count(), 16 + 1, "one is the text's own");
        let sums = found.windows(2).filter(|pair| pair[0].0 == spirv::ACCESS_CHAIN && pair[1].0 == spirv::LOAD);
        assert!(sums.count() >= 16);
        assert_eq!(count(spirv::FUNCTION), count(spirv::FUNCTION_END));
        assert_eq!(count(spirv::FUNCTION), 6);
        // Four sums times the first number, four times the second.
        let factors: Vec<u32> =
            found.iter().filter(|(op, _)| *op == spirv::MULTIPLY).map(|(_, operands)| operands[3]).collect();
        assert!(factors[..4] == [factors[0]; 4] && factors[4..] == [factors[4]; 4] && factors[0] != factors[4]);
        assert_eq!(factors.len(), 8);
        let controls: Vec<u32> =
            found.iter().filter(|(op, _)| *op == spirv::LOOP_MERGE).map(|(_, operands)| operands[2]).collect();
        assert_eq!(controls, [spirv::DONT_UNROLL]);
    }

    #[test]
    fn words_go_to_their_elements() {
        let found = instructions(&super::super::containers::compile(TEXT, "main").unwrap());
        let constants: HashMap<u32, u32> = found
            .iter()
            .filter(|(operation, _)| *operation == spirv::CONSTANT)
            .map(|(_, operands)| (operands[1], operands[2]))
            .collect();
        // The number of each element that is stored, function by function.
        let mut functions = vec![Vec::new()];
        for pair in found.windows(2) {
            match (&pair[0], &pair[1]) {
                ((spirv::FUNCTION_END, _), _) => functions.push(Vec::new()),
                ((spirv::ACCESS_CHAIN, place), (spirv::STORE, to)) if place[1] == to[0] && place.len() == 4 => {
                    functions.last_mut().unwrap().push(constants.get(&place[3]).copied());
                }
                _ => {}
            }
        }
        let numbers = |numbers: [u32; 8]| numbers.map(Some).to_vec();
        assert_eq!(functions[0], numbers([0, 1, 2, 3, 4, 5, 6, 7]), "four words");
        assert_eq!(functions[1], numbers([0, 4, 1, 5, 2, 6, 3, 7]), "all first halves before all second ones");
    }

    #[test]
    fn ids_are_below_the_bound_and_made_once() {
        let words = super::super::containers::compile(TEXT, "main").unwrap();
        let mut made = std::collections::HashSet::new();
        for (operation, operands) in instructions(&words) {
            let result = match operation {
                spirv::TYPE_INT..=spirv::TYPE_FUNCTION | spirv::LABEL | spirv::TYPE_COOPERATIVE_MATRIX => operands[0],
                spirv::CONSTANT
                | spirv::FUNCTION
                | spirv::FUNCTION_PARAMETER
                | spirv::VARIABLE
                | spirv::LOAD
                | spirv::ACCESS_CHAIN
                | spirv::COMPOSITE_CONSTRUCT
                | spirv::COMPOSITE_EXTRACT
                | spirv::BITCAST => operands[1],
                _ => continue,
            };
            assert!(result < words[3] && made.insert(result), "operation {operation}, id {result}");
        }
    }

    #[test]
    fn modules_without_such_functions_stay_as_they_are() {
        let text = "@compute @workgroup_size(1) fn main() { for (var i = 0u; i < 9u; i += 1u) {} }";
        let module = naga::front::wgsl::parse_str(text).unwrap();
        let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
            .validate(&module)
            .unwrap();
        let words = naga::back::spv::write_vec(&module, &info, &naga::back::spv::Options::default(), None).unwrap();
        assert_eq!(filled(&words), words);
    }
}
