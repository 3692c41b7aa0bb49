//! Numbers in decimal, without the machinery of `format!`.

/// Appends a number.
pub(crate) fn put(out: &mut Vec<u8>, mut number: u64) {
    let (mut digits, mut from) = ([0; 20], 20);
    loop {
        from -= 1;
        digits[from] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[from..]);
        }
    }
}

/// Reads a number: digits alone, and no more of them than fit.
pub(crate) fn read(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_both_ways() {
        for number in [0, 7, 10, 4096, u64::MAX] {
            let mut out = Vec::new();
            put(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
            assert_eq!(read(&out), Some(number));
        }
        for text in ["", "+1", "-1", "1 ", "0x1", "18446744073709551616", "\u{663}"] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
    }
}
