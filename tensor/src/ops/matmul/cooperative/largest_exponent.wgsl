var largest = -126;
for (var line = start + local; line < end; line += 128u) {
largest = max(largest, line_exponent(line));
}
exponents[local] = largest;
workgroupBarrier();
for (var step = 64u; step > 0u; step /= 2u) {
if (local < step) {
exponents[local] = max(exponents[local], exponents[local + step]);
}
workgroupBarrier();
}
largest = min(exponents[0], 126);
