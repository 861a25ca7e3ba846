//! placeholder
/// Bytes such as `512MB`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1u64,
        "kb" | "kib" | "k" => 1 << 10,
        "mb" | "mib" | "m" => 1 << 20,
        "gb" | "gib" | "g" => 1 << 30,
        _ => return Err(format!("`{unit}` is no unit of memory: write it as 512MB")),
    };
    let number: u64 =
        number.trim().parse().map_err(|_| format!("`{text}` is no amount of memory: write it as 512MB"))?;
    number.checked_mul(factor).filter(|&bytes| bytes > 0).ok_or(format!("`{text}` is no amount of memory"))
}
