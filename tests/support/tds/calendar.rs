//! Dates and times as text, and on the wire: [MS-TDS] 2.2.5.5.1.8.

use bytes::{Buf, BufMut};

use super::types::Type;

/// Days from 0001-01-01 to 1900-01-01.
const DAYS_TO_1900: i64 = 693_595;
const TICKS_A_MINUTE: i64 = 600_000_000;
const TICKS_A_DAY: i64 = 1440 * TICKS_A_MINUTE;

/// A point in time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment {
    /// Since 0001-01-01.
    days: i64,
    /// Since midnight, of 100 ns.
    ticks: i64,
    /// Minutes to the east of UTC.
    offset: i64,
}

/// Bytes of a time with so many digits of the second's fraction.
fn time_len(scale: u8) -> usize {
    match scale {
        0..=2 => 3,
        3..=4 => 4,
        _ => 5,
    }
}

fn unit(scale: u8) -> i64 {
    10_i64.pow(7 - u32::from(scale))
}

impl Moment {
    /// Of `2024-01-31 23:59:59.1234567 +02:00` or a part of it.
    pub fn parse(text: &str) -> Self {
        let number = |text: &str| text.parse::<i64>().unwrap();
        let mut moment = Self::default();
        for part in text.split_whitespace() {
            if let Some((hours, minutes)) = part.strip_prefix(['+', '-']).and_then(|offset| offset.split_once(':')) {
                let minutes = 60 * number(hours) + number(minutes);
                moment.offset = if part.starts_with('-') { -minutes } else { minutes };
            } else if part.contains(':') {
                let (clock, fraction) = part.split_once('.').unwrap_or((part, ""));
                let seconds = clock.split(':').chain(["0"]).take(3).fold(0, |sum, field| 60 * sum + number(field));
                moment.ticks = seconds * 10_000_000 + number(&format!("{fraction:0<7}"));
            } else {
                let fields: Vec<i64> = part.split('-').map(number).collect();
                moment.days = days(fields[0], fields[1], fields[2]);
            }
        }
        moment
    }

    pub fn encode(self, ty: &Type) -> Vec<u8> {
        let mut out = Vec::new();
        let time = |scale: u8, ticks: i64, out: &mut Vec<u8>| out.extend(&(ticks / unit(scale)).to_le_bytes()[..time_len(scale)]);
        let date = |days: i64, out: &mut Vec<u8>| out.extend(&u32::try_from(days).unwrap().to_le_bytes()[..3]);
        match ty {
            Type::Date => date(self.days, &mut out),
            Type::Time(scale) => time(*scale, self.ticks, &mut out),
            Type::DateTime2(scale) => {
                time(*scale, self.ticks, &mut out);
                date(self.days, &mut out);
            }
            Type::DateTimeOffset(scale) => {
                let utc = self.days * TICKS_A_DAY + self.ticks - self.offset * TICKS_A_MINUTE;
                time(*scale, utc.rem_euclid(TICKS_A_DAY), &mut out);
                date(utc.div_euclid(TICKS_A_DAY), &mut out);
                out.extend(i16::try_from(self.offset).unwrap().to_le_bytes());
            }
            Type::DateTime => {
                out.extend(i32::try_from(self.days - DAYS_TO_1900).unwrap().to_le_bytes());
                out.put_u32_le(((self.ticks * 3 + 50_000) / 100_000) as u32); // of 1/300 s
            }
            Type::SmallDateTime => {
                out.put_u16_le(u16::try_from(self.days - DAYS_TO_1900).unwrap());
                out.put_u16_le((self.ticks / TICKS_A_MINUTE) as u16);
            }
            _ => unreachable!("{ty:?} is no time"),
        }
        out
    }

    /// The text of bytes from the wire.
    pub fn decode(ty: &Type, mut bytes: &[u8]) -> String {
        let time = |scale: u8, bytes: &mut &[u8]| bytes.get_uint_le(time_len(scale)) as i64 * unit(scale);
        let date = |bytes: &mut &[u8]| bytes.get_uint_le(3) as i64;
        match ty {
            Type::Date => date_text(date(&mut bytes)),
            Type::Time(scale) => time_text(time(*scale, &mut bytes), *scale),
            Type::DateTime2(scale) => {
                let ticks = time(*scale, &mut bytes);
                format!("{} {}", date_text(date(&mut bytes)), time_text(ticks, *scale))
            }
            Type::DateTimeOffset(scale) => {
                let (ticks, days, offset) = (time(*scale, &mut bytes), date(&mut bytes), i64::from(bytes.get_i16_le()));
                let local = days * TICKS_A_DAY + ticks + offset * TICKS_A_MINUTE;
                let sign = if offset < 0 { '-' } else { '+' };
                let (day, time) = (date_text(local.div_euclid(TICKS_A_DAY)), time_text(local.rem_euclid(TICKS_A_DAY), *scale));
                format!("{day} {time} {sign}{:02}:{:02}", offset.abs() / 60, offset.abs() % 60)
            }
            Type::DateTime => {
                let days = i64::from(bytes.get_i32_le()) + DAYS_TO_1900;
                let milliseconds = (i64::from(bytes.get_u32_le()) * 10 + 1) / 3;
                format!("{} {}", date_text(days), time_text(milliseconds * 10_000, 3))
            }
            Type::SmallDateTime => {
                let days = i64::from(bytes.get_u16_le()) + DAYS_TO_1900;
                format!("{} {}", date_text(days), time_text(i64::from(bytes.get_u16_le()) * TICKS_A_MINUTE, 0))
            }
            _ => unreachable!("{ty:?} is no time"),
        }
    }
}

fn time_text(ticks: i64, scale: u8) -> String {
    let seconds = ticks / 10_000_000;
    let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if scale == 0 {
        return clock;
    }
    format!("{clock}.{:0width$}", ticks % 10_000_000 / unit(scale), width = usize::from(scale))
}

/// Days of the years before this one, from 0001-01-01.
fn days_before_year(year: i64) -> i64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400
}

fn days_before_month(year: i64, month: i64) -> i64 {
    let leap = i64::from(month > 2 && days_before_year(year + 1) - days_before_year(year) == 366);
    [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month as usize - 1] + leap
}

fn days(year: i64, month: i64, day: i64) -> i64 {
    days_before_year(year) + days_before_month(year, month) + day - 1
}

fn date_text(days: i64) -> String {
    let mut year = days / 366 + 1;
    while days_before_year(year + 1) <= days {
        year += 1;
    }
    let rest = days - days_before_year(year);
    let month = (1..=12).rev().find(|month| days_before_month(year, *month) <= rest).unwrap();
    format!("{year:04}-{month:02}-{:02}", rest - days_before_month(year, month) + 1)
}
