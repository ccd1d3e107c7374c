sum *= params.alpha;
let words = vec2<u32>(pack2x16float(sum.xy), pack2x16float(sum.zw));
let result_row = group.x * 32u + row;
let result_vector = group.y * 8u + vector;
let across = params.padded_rank / 4u;
out[result_row * across + result_vector] = words;
out_in_tiles[2u * right_chunk(result_row, result_vector, across) + row % 2u] = words;
