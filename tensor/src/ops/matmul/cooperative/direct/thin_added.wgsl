let rank_row = group.y * 32u + row;
let column = group.x * 32u + vector * 4u;
// The rest is what pads the rank.
if (rank_row >= params.rank) {
return;
}
sum *= params.alpha * scale[0];
