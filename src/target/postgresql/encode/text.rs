//! COPY's text format: fields parted by tabs, rows by line breaks, NULL as `\N`, special characters escaped.

use std::io::Write as _;

use super::{Apart, ApartForm, Cells};
use crate::data::{Beside, Besides};

pub(super) fn append_row<'a>(cells: &[Cells<'a>], beside: &'a Besides, row: usize, out: &mut Vec<u8>, apart: &mut Vec<Apart<'a>>) {
    for (column, cell) in cells.iter().enumerate() {
        if column > 0 {
            out.push(b'\t');
        }
        if cell.is_null(row) {
            // A table has at most 1,600 columns.
            match beside.get(&(column as u16, row as u32)) {
                Some(Beside::Text(text)) => escaped(out, text.as_bytes()),
                Some(Beside::Large(value)) => {
                    let form = if matches!(cell, Cells::Binary(_)) {
                        out.extend_from_slice(b"\\\\x");
                        ApartForm::Hex
                    } else {
                        ApartForm::Escaped
                    };
                    apart.push(Apart { at: out.len(), value, form });
                }
                None => out.extend_from_slice(b"\\N"),
            }
        } else {
            value(cell, row, out);
        }
    }
    out.push(b'\n');
}

// Writing to a Vec cannot fail: the results of `write!` are dropped.
fn value(cell: &Cells<'_>, row: usize, out: &mut Vec<u8>) {
    match cell {
        Cells::Bool(a) => out.push(if a.value(row) { b't' } else { b'f' }),
        Cells::Int16(a) => drop(write!(out, "{}", a.value(row))),
        Cells::Int32(a) => drop(write!(out, "{}", a.value(row))),
        Cells::Int64(a) => drop(write!(out, "{}", a.value(row))),
        // Rust prints the shortest digits that read back as the same number; infinities it calls inf.
        Cells::Float32(a) => float(out, f64::from(a.value(row)), a.value(row)),
        Cells::Float64(a) => float(out, a.value(row), a.value(row)),
        Cells::Decimal(a, scale) => decimal(out, a.value(row), usize::from(*scale)),
        Cells::Date(a) => date(out, i64::from(a.value(row))),
        Cells::Time(a) => time(out, a.value(row)),
        Cells::Timestamp(a) => timestamp(out, a.value(row), ""),
        Cells::TimestampTz(a) => timestamp(out, a.value(row), "+00"),
        Cells::Time7(a) => time(out, a.value(row).div_euclid(10)),
        Cells::Timestamp7(a) => timestamp(out, a.value(row).div_euclid(10), ""),
        Cells::TimestampOffset(a) => out.extend(without_seventh_digit(a.value(row).as_bytes())),
        Cells::Utf8(a) | Cells::Jsonb(a) => escaped(out, a.value(row).as_bytes()),
        Cells::Binary(a) => {
            out.extend_from_slice(b"\\\\x");
            hex(out, a.value(row));
        }
        Cells::Uuid(a) => hex(out, a.value(row)),
    }
}

/// A moment as PostgreSQL keeps it: it would round a seventh digit of the second, up to the next day.
fn without_seventh_digit(text: &[u8]) -> impl Iterator<Item = u8> {
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    // With fewer digits the offset stands there, which has some too.
    let digits = text.iter().skip(point + 1).take_while(|byte| byte.is_ascii_digit()).count();
    let seventh = (digits == 7).then_some(point + 7);
    text.iter().enumerate().filter(move |(at, _)| Some(*at) != seventh).map(|(_, byte)| *byte)
}

fn float(out: &mut Vec<u8>, class: f64, value: impl std::fmt::LowerExp) {
    if class.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if class.is_infinite() {
        out.extend_from_slice(if class > 0.0 { b"Infinity" } else { b"-Infinity" });
    } else {
        drop(write!(out, "{value:e}"));
    }
}

fn decimal(out: &mut Vec<u8>, value: i128, scale: usize) {
    if value < 0 {
        out.push(b'-');
    }
    let start = out.len();
    drop(write!(out, "{:0width$}", value.unsigned_abs(), width = scale + 1));
    if scale > 0 {
        let point = out.len() - scale;
        debug_assert!(point > start);
        out.insert(point, b'.');
    }
}

fn date(out: &mut Vec<u8>, days: i64) {
    let (year, month, day) = civil(days);
    // The year before year 1 is 1 BC.
    let (shown, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    day_of(out, shown, month, day);
    out.extend_from_slice(era.as_bytes());
}

fn day_of(out: &mut Vec<u8>, year: i64, month: i64, day: i64) {
    if year < 10_000 {
        padded::<4>(out, year);
    } else {
        drop(write!(out, "{year}"));
    }
    out.push(b'-');
    padded::<2>(out, month);
    out.push(b'-');
    padded::<2>(out, day);
}

/// The last `N` decimal digits of a number that is not negative: several times faster than the formatting machinery.
fn padded<const N: usize>(out: &mut Vec<u8>, mut value: i64) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits);
}

fn time(out: &mut Vec<u8>, micros: i64) {
    let seconds = micros / 1_000_000;
    padded::<2>(out, seconds / 3600);
    out.push(b':');
    padded::<2>(out, seconds / 60 % 60);
    out.push(b':');
    padded::<2>(out, seconds % 60);
    out.push(b'.');
    padded::<6>(out, micros % 1_000_000);
}

fn timestamp(out: &mut Vec<u8>, micros: i64, zone: &str) {
    const DAY: i64 = 86_400_000_000;
    let (year, month, day) = civil(micros.div_euclid(DAY));
    let (shown, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    day_of(out, shown, month, day);
    out.push(b' ');
    time(out, micros.rem_euclid(DAY));
    out.extend_from_slice(zone.as_bytes());
    out.extend_from_slice(era.as_bytes());
}

/// Year (0 is 1 BC), month and day of a day since 1970-01-01, in the proleptic Gregorian calendar. By 400-year eras that
/// begin on March 1 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

pub(super) fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 * bytes.len());
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

pub(super) fn escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(at) = text.iter().position(|byte| matches!(byte, b'\\' | b'\n' | b'\r' | b'\t')) {
        out.extend_from_slice(&text[..at]);
        let letter = match text[at] {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            other => other,
        };
        out.extend_from_slice(&[b'\\', letter]);
        text = &text[at + 1..];
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates_far_and_near() {
        // Checked against PostgreSQL: SELECT date '1970-01-01' + n.
        for (days, expected) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (-719_163, "0001-12-31 BC"),
            (-719_162, "0001-01-01"),
            (-2_440_588, "4714-11-24 BC"),
            (2_145_042_905, "5874897-12-31"),
        ] {
            assert_eq!(text(|out| date(out, days)), expected);
        }
        assert_eq!(text(|out| timestamp(out, -1, "+00")), "1969-12-31 23:59:59.999999+00");
        assert_eq!(text(|out| timestamp(out, -719_163 * 86_400_000_000, "")), "0001-12-31 00:00:00.000000 BC");
    }

    #[test]
    fn decimals_keep_their_scale() {
        for (value, scale, expected) in
            [(0, 0, "0"), (0, 2, "0.00"), (-5, 2, "-0.05"), (12345, 2, "123.45"), (7, 0, "7"), (-100, 3, "-0.100")]
        {
            assert_eq!(text(|out| decimal(out, value, scale)), expected);
        }
    }

    /// Of a moment with few digits it is none: the offset has digits as well.
    #[test]
    fn a_seventh_digit_is_left_out_and_nothing_else() {
        for (moment, expected) in [
            ("2020-01-01 00:01:37 +02:00", "2020-01-01 00:01:37 +02:00"),
            ("2020-01-01 00:01:37.1 +12:34", "2020-01-01 00:01:37.1 +12:34"),
            ("2020-01-01 00:01:37.123 +02:00", "2020-01-01 00:01:37.123 +02:00"),
            ("2020-01-01 00:01:37.1234 -11:30", "2020-01-01 00:01:37.1234 -11:30"),
            ("2020-01-01 00:01:37.123456 +02:00", "2020-01-01 00:01:37.123456 +02:00"),
            ("2020-01-01 00:01:37.1234567 +02:00", "2020-01-01 00:01:37.123456 +02:00"),
        ] {
            assert_eq!(text(|out| out.extend(without_seventh_digit(moment.as_bytes()))), expected);
        }
    }

    #[test]
    fn special_characters_are_escaped() {
        assert_eq!(text(|out| escaped(out, b"a\tb\\c\nd\r\\.\\N")), "a\\tb\\\\c\\nd\\r\\\\.\\\\N");
    }
}
