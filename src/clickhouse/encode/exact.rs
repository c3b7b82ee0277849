//! A number's decimal text as a scaled integer of up to 256 bits, without rounding.

/// An integer of up to 256 bits with its sign apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exact {
    pub negative: bool,
    /// Decimal digits without leading zeros; 0 for zero.
    pub digits: usize,
    /// Least significant limb first.
    magnitude: [u64; 4],
}

/// Why a number is no scaled integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// Digits other than zeros beyond the scale.
    Fraction,
    /// More than 256 bits.
    TooLarge,
}

/// No integer of 256 bits has more digits.
const MAX_DIGITS: i64 = 78;

/// The value of a JSON number times ten to the power of `scale`.
pub(super) fn scaled(number: &str, scale: u32) -> Result<Exact, Misfit> {
    let parts = Parts::of(number);
    let (Some(first), Some(last)) = (parts.first_nonzero(), parts.last_nonzero()) else {
        return Ok(Exact { negative: parts.negative, digits: 0, magnitude: [0; 4] });
    };
    // Digits are counted from the left; the scaled integer is made of those before `end`.
    let end = parts.point().saturating_add(i64::from(scale));
    if last >= end {
        return Err(Misfit::Fraction);
    }
    let digits = end.saturating_sub(first);
    if digits > MAX_DIGITS {
        return Err(Misfit::TooLarge);
    }
    let mut magnitude = [0; 4];
    let (mut chunk, mut weight) = (0_u64, 1_u64);
    for index in first..end {
        chunk = chunk * 10 + parts.digit(index);
        weight *= 10;
        if weight == 1_000_000_000_000_000_000 || index + 1 == end {
            multiply_add(&mut magnitude, weight, chunk).ok_or(Misfit::TooLarge)?;
            (chunk, weight) = (0, 1);
        }
    }
    let digits = usize::try_from(digits).unwrap_or(usize::MAX);
    Ok(Exact { negative: parts.negative, digits, magnitude })
}

/// `None` on overflow.
fn multiply_add(magnitude: &mut [u64; 4], factor: u64, addend: u64) -> Option<()> {
    let mut carry = u128::from(addend);
    for limb in magnitude {
        let product = u128::from(*limb) * u128::from(factor) + carry;
        *limb = low_half(product);
        carry = product >> 64;
    }
    (carry == 0).then_some(())
}

#[expect(clippy::cast_possible_truncation, reason = "the upper half is dropped on purpose")]
pub(super) const fn low_half(value: u128) -> u64 {
    value as u64
}

impl Exact {
    /// Whether a two's complement (`signed`) or unsigned integer of that many bytes holds the value.
    pub fn fits(&self, signed: bool, bytes: usize) -> bool {
        let bits = bytes * 8;
        if !signed {
            return self.bit_length() <= bits && (!self.negative || self.digits == 0);
        }
        self.bit_length() < bits || (self.negative && self.bit_length() == bits && self.is_power_of_two())
    }

    fn bit_length(&self) -> usize {
        let limbs = self.magnitude.iter().rposition(|limb| *limb != 0);
        limbs.map_or(0, |top| (top + 1) * 64 - self.magnitude[top].leading_zeros() as usize)
    }

    fn is_power_of_two(&self) -> bool {
        self.magnitude.iter().map(|limb| limb.count_ones()).sum::<u32>() == 1
    }

    /// Appends the value in that many little-endian bytes (at most 32), two's complement if negative.
    pub fn append_to(&self, bytes: usize, out: &mut Vec<u8>) {
        let mut limbs = self.magnitude;
        if self.negative {
            let mut carry = true;
            for limb in &mut limbs {
                (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
            }
        }
        let mut little_endian = [0; 32];
        for (target, limb) in little_endian.chunks_exact_mut(8).zip(limbs) {
            target.copy_from_slice(&limb.to_le_bytes());
        }
        out.extend_from_slice(&little_endian[..bytes.min(32)]);
    }
}

/// A JSON number taken apart. Its grammar has been checked.
pub(super) struct Parts<'a> {
    pub negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> Parts<'a> {
    pub fn of(number: &'a str) -> Self {
        let (negative, unsigned) = match number.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, number),
        };
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        // An exponent that no i64 holds moves the point beyond every digit either way.
        let beyond = if exponent.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 };
        let exponent = exponent.parse().unwrap_or(beyond).clamp(i64::MIN / 2, i64::MAX / 2);
        Parts { negative, whole: whole.as_bytes(), fraction: fraction.as_bytes(), exponent }
    }

    /// Where the decimal point stands among the digits.
    pub fn point(&self) -> i64 {
        position(self.whole.len()).saturating_add(self.exponent)
    }

    /// The digit at a position; zero beyond the last one.
    pub fn digit(&self, index: i64) -> u64 {
        let digit = usize::try_from(index).ok().and_then(|index| match self.whole.get(index) {
            Some(digit) => Some(digit),
            None => self.fraction.get(index - self.whole.len()),
        });
        digit.map_or(0, |digit| u64::from(digit - b'0'))
    }

    pub fn first_nonzero(&self) -> Option<i64> {
        self.whole.iter().chain(self.fraction).position(|digit| *digit != b'0').map(position)
    }

    pub fn last_nonzero(&self) -> Option<i64> {
        match self.fraction.iter().rposition(|digit| *digit != b'0') {
            Some(at) => Some(position(self.whole.len() + at)),
            None => self.whole.iter().rposition(|digit| *digit != b'0').map(position),
        }
    }

    /// Whether two numbers are equal, digit for digit.
    pub fn same_value(&self, other: &Parts<'_>) -> bool {
        match (self.first_nonzero(), other.first_nonzero()) {
            (None, None) => true,
            (Some(mine), Some(theirs)) => {
                let length = self.last_nonzero().map_or(0, |last| last - mine);
                self.negative == other.negative
                    && self.point() - mine == other.point() - theirs
                    && Some(theirs + length) == other.last_nonzero()
                    && (0..=length).all(|index| self.digit(mine + index) == other.digit(theirs + index))
            }
            _ => false,
        }
    }

    /// Digits from the first to the last that is not zero.
    pub fn significant(&self) -> i64 {
        match (self.first_nonzero(), self.last_nonzero()) {
            (Some(first), Some(last)) => last - first + 1,
            _ => 0,
        }
    }
}

fn position(index: usize) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: &str, scale: u32, width: usize) -> Vec<u8> {
        let mut out = Vec::new();
        scaled(number, scale).unwrap().append_to(width, &mut out);
        out
    }

    #[test]
    fn numbers_are_scaled_without_rounding() {
        for (number, scale, expected) in [
            ("1.5", 1, 15_i64),
            ("-1.50", 1, -15),
            ("0.001", 3, 1),
            ("12e3", 0, 12_000),
            ("1200e-2", 0, 12),
            ("0.0", 0, 0),
            ("-0", 2, 0),
            ("999999999999999999", 0, 999_999_999_999_999_999),
            ("1e-3", 3, 1),
        ] {
            assert_eq!(bytes(number, scale, 8), expected.to_le_bytes(), "{number}");
        }
        for number in ["0.1", "1.05e1", "1e-1", "1e-99999999999999999999"] {
            assert_eq!(scaled(number, 0), Err(Misfit::Fraction), "{number}");
        }
        for number in ["1e78", "1e99999999999999999999", &"9".repeat(79)] {
            assert_eq!(scaled(number, 0), Err(Misfit::TooLarge), "{number}");
        }
    }

    #[test]
    fn a_zero_with_any_exponent_is_zero() {
        assert_eq!(bytes("0e999999999999999999999", 0, 1), [0]);
        assert_eq!(bytes("0.00e-99999", 0, 1), [0]);
    }

    #[test]
    fn two_hundred_and_fifty_six_bits_are_held_to_the_last() {
        let largest = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
        let beyond = "115792089237316195423570985008687907853269984665640564039457584007913129639936";
        assert_eq!(bytes(largest, 0, 32), [255; 32]);
        assert!(scaled(largest, 0).unwrap().fits(false, 32));
        assert!(!scaled(largest, 0).unwrap().fits(true, 32));
        assert_eq!(scaled(beyond, 0), Err(Misfit::TooLarge));
    }

    #[test]
    fn widths_are_checked_to_the_last_value() {
        for (number, signed, bytes, fits) in [
            ("127", true, 1, true),
            ("128", true, 1, false),
            ("-128", true, 1, true),
            ("-129", true, 1, false),
            ("255", false, 1, true),
            ("256", false, 1, false),
            ("-0", false, 1, true),
            ("-1", false, 1, false),
            ("170141183460469231731687303715884105727", true, 16, true),
            ("-170141183460469231731687303715884105728", true, 16, true),
            ("170141183460469231731687303715884105728", true, 16, false),
        ] {
            assert_eq!(scaled(number, 0).unwrap().fits(signed, bytes), fits, "{number} in {bytes} bytes");
        }
    }

    #[test]
    fn equality_is_of_values_not_of_texts() {
        let same = |a: &str, b: &str| Parts::of(a).same_value(&Parts::of(b));
        assert!(same("1.50", "15e-1"));
        assert!(same("0", "-0.00e5"));
        assert!(same("1000", "1e3"));
        assert!(!same("1000", "1e2"));
        assert!(!same("1.5", "-1.5"));
        assert!(!same("1.5", "1.51"));
        assert!(!same("0", "1"));
    }
}
