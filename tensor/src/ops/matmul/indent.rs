//! Layout of generated WGSL, whose pieces are written flat.

/// Indents every line by its depth of braces and parentheses that are open at its start.
pub(in crate::ops) fn indent(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 5 / 4);
    let mut depth = 0usize;
    for line in text.lines().map(str::trim_start) {
        let opened = line.matches(['{', '(']).count();
        let closed = line.matches(['}', ')']).count();
        let code = !line.starts_with("//");
        let here = if code && line.starts_with(['}', ')']) { depth.saturating_sub(1) } else { depth };
        if !line.is_empty() {
            out.extend(std::iter::repeat_n("    ", here));
            out.push_str(line);
        }
        out.push('\n');
        if code {
            depth = (depth + opened).saturating_sub(closed);
        }
    }
    out
}
