exponents[local] = largest;
workgroupBarrier();
for (var step = 64u; step > 0u; step /= 2u) {
if (local < step) {
exponents[local] = max(exponents[local], exponents[local + step]);
}
workgroupBarrier();
}
largest = min(exponents[0], 126);
