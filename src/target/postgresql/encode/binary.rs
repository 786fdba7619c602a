//! COPY's binary format: a count of fields, then each value with its length, as the receive functions in PostgreSQL's
//! `src/backend/utils/adt` read them, big-endian.

use super::{Apart, ApartForm, Cells};
use crate::data::{Beside, Besides};

/// Days from 1970-01-01 to 2000-01-01, PostgreSQL's day zero.
const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Decimal digits that one digit of a `numeric` holds.
const GROUP: u32 = 4;

pub(super) fn append_row<'a>(cells: &[Cells<'a>], beside: &'a Besides, row: usize, out: &mut Vec<u8>, apart: &mut Vec<Apart<'a>>) {
    // At most 1,600 columns fit a table.
    out.extend_from_slice(&(cells.len() as u16).to_be_bytes());
    for (column, cell) in cells.iter().enumerate() {
        if cell.is_null(row) {
            match beside.get(&(column as u16, row as u32)) {
                Some(Beside::Large(value)) => {
                    let versioned = matches!(cell, Cells::Jsonb(_));
                    // No value of PostgreSQL's has more than 1 GB.
                    out.extend_from_slice(&(value.size() as u32 + u32::from(versioned)).to_be_bytes());
                    if versioned {
                        out.push(1);
                    }
                    apart.push(Apart { at: out.len(), value, form: ApartForm::AsIs });
                }
                Some(Beside::Text(_)) | None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
            }
            continue;
        }
        match cell {
            Cells::Bool(a) => field(out, [u8::from(a.value(row))]),
            Cells::Int16(a) => field(out, a.value(row).to_be_bytes()),
            Cells::Int32(a) => field(out, a.value(row).to_be_bytes()),
            Cells::Int64(a) => field(out, a.value(row).to_be_bytes()),
            Cells::Float32(a) => field(out, a.value(row).to_be_bytes()),
            Cells::Float64(a) => field(out, a.value(row).to_be_bytes()),
            Cells::Decimal(a, scale) => numeric(out, a.value(row), u32::from(*scale)),
            // Saturated days and times are outside PostgreSQL's range and refused by it.
            Cells::Date(a) => field(out, a.value(row).saturating_sub(EPOCH_DAYS).to_be_bytes()),
            Cells::Time(a) => field(out, a.value(row).to_be_bytes()),
            Cells::Timestamp(a) | Cells::TimestampTz(a) => field(out, a.value(row).saturating_sub(EPOCH_MICROS).to_be_bytes()),
            // A seventh digit is cut off: rounding could make a day of 24 hours of it.
            Cells::Time7(a) => field(out, a.value(row).div_euclid(10).to_be_bytes()),
            Cells::Timestamp7(a) => field(out, (a.value(row).div_euclid(10) - EPOCH_MICROS).to_be_bytes()),
            Cells::TimestampOffset(a) | Cells::Utf8(a) => bytes(out, a.value(row).as_bytes()),
            Cells::Jsonb(a) => {
                let text = a.value(row).as_bytes();
                out.extend_from_slice(&(text.len() as u32 + 1).to_be_bytes());
                out.push(1);
                out.extend_from_slice(text);
            }
            Cells::Binary(a) => bytes(out, a.value(row)),
            Cells::Uuid(a) => bytes(out, a.value(row)),
        }
    }
}

fn field<const N: usize>(out: &mut Vec<u8>, value: [u8; N]) {
    out.extend_from_slice(&(N as u32).to_be_bytes());
    out.extend_from_slice(&value);
}

fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
}

/// A `numeric`: count of base-10,000 digits, weight of the first, sign, decimal digits after the point, the digits. Zero
/// digits at both ends are left out (`numeric_recv`).
fn numeric(out: &mut Vec<u8>, value: i128, scale: u32) {
    // Filled from the back, least significant first: 39 decimal digits and their alignment fit 12 groups.
    let mut groups = [0_u16; 12];
    let mut start = groups.len();
    let mut push = |group: u16| {
        start -= 1;
        groups[start] = group;
    };
    let mut rest = value.unsigned_abs();
    // The group that the last digits after the point share with nothing: padded on its right.
    let odd = scale % GROUP;
    if odd > 0 {
        let unit = 10_u128.pow(odd);
        push((rest % unit) as u16 * 10_u16.pow(GROUP - odd));
        rest /= unit;
    }
    while rest > u128::from(u64::MAX) {
        push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    // Most numbers fit a machine word, where division is ten times cheaper.
    let mut rest = rest as u64;
    while rest > 0 {
        push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    let after_point = scale.div_ceil(GROUP) as i32;
    let mut digits = &groups[start..];
    let mut weight = digits.len() as i32 - after_point - 1;
    while let [0, tail @ ..] = digits {
        digits = tail;
        weight -= 1;
    }
    while let [head @ .., 0] = digits {
        digits = head;
    }
    if digits.is_empty() {
        weight = 0;
    }
    out.extend_from_slice(&(8 + 2 * digits.len() as u32).to_be_bytes());
    out.extend_from_slice(&(digits.len() as u16).to_be_bytes());
    out.extend_from_slice(&(weight as i16).to_be_bytes());
    out.extend_from_slice(&(if value < 0 { 0x4000_u16 } else { 0 }).to_be_bytes());
    out.extend_from_slice(&(scale as u16).to_be_bytes());
    for digit in digits {
        out.extend_from_slice(&digit.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a numeric back by the rules of PostgreSQL's manual: value = Σ digit × 10000^(weight - i).
    fn read(bytes: &[u8]) -> (i128, u32) {
        let at = |i: usize| i16::from_be_bytes([bytes[4 + 2 * i], bytes[5 + 2 * i]]);
        let (count, weight, sign, scale) = (at(0) as usize, i32::from(at(1)), at(2), at(3) as u32);
        assert_eq!(bytes.len(), 12 + 2 * count);
        let mut value = 0_i128;
        for i in 0..count {
            assert!((0..10_000).contains(&at(4 + i)));
            let exponent = 4 * (weight - i as i32) + scale as i32;
            let digit = i128::from(at(4 + i));
            value += if exponent >= 0 { digit * 10_i128.pow(exponent as u32) } else { digit / 10_i128.pow(exponent.unsigned_abs()) };
        }
        if count > 0 {
            assert!(at(4) != 0 && at(3 + count) != 0, "zero digits at an end");
        }
        (if sign == 0x4000 { -value } else { value }, scale)
    }

    #[test]
    fn numerics_keep_value_and_scale() {
        let max = 10_i128.pow(38) - 1;
        let values =
            [0, 1, -1, 9, 10, 9_999, 10_000, 10_001, -123_456_789, 100_000_000, i128::from(u64::MAX), i128::from(u64::MAX) + 1, max, -max];
        for value in values {
            for scale in 0..=38 {
                let mut out = Vec::new();
                numeric(&mut out, value, scale);
                assert_eq!(out.len() as u32, 4 + u32::from_be_bytes([out[0], out[1], out[2], out[3]]));
                assert_eq!(read(&out), (value, scale), "{value} scale {scale}");
            }
        }
    }
}
