//! Unix seconds to the calendar and back (proleptic Gregorian, UTC).

use serde::{Deserialize, Serialize};

/// Seconds of a day.
pub(super) const DAY_SECONDS: i64 = 86_400;
/// First second of the year 10000: two century digits reach no further.
pub(super) const SECONDS_END: i64 = 253_402_300_800;
/// First second of the year 0.
pub(super) const SECONDS_FIRST: i64 = -62_167_219_200;

/// A moment as the chip's registers hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moment {
    pub(super) second: u8,
    pub(super) minute: u8,
    /// 0 to 23.
    pub(super) hour: u8,
    /// 1 (Sunday) to 7.
    pub(super) weekday: u8,
    /// 1 to 31.
    pub(super) day: u8,
    /// 1 to 12.
    pub(super) month: u8,
    /// 0 to 99.
    pub(super) year: u8,
    /// 0 to 99.
    pub(super) century: u8,
}

impl Moment {
    /// The moment of `seconds` since 1970, clamped to the years 0 to 9999.
    pub(super) fn from_unix(seconds: i64) -> Moment {
        let seconds = seconds.clamp(SECONDS_FIRST, SECONDS_END - 1);
        let (days, rest) = (
            seconds.div_euclid(DAY_SECONDS),
            seconds.rem_euclid(DAY_SECONDS),
        );
        // Days counted from 1 March of year 0, in eras of 400 years (146,097 days), so that the
        // leap day is the last of its year.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Moment {
            second: (rest % 60) as u8,
            minute: (rest / 60 % 60) as u8,
            hour: (rest / 3600) as u8,
            // 1 January 1970 was a Thursday.
            weekday: ((days + 4).rem_euclid(7) + 1) as u8,
            day: (day_of_year - (153 * march_month + 2) / 5 + 1) as u8,
            month: month as u8,
            year: (year % 100) as u8,
            century: (year / 100) as u8,
        }
    }

    /// Seconds since 1970. Fields out of their range (a guest may write any byte) are taken as
    /// they are and carry over, as adding them up does.
    pub(super) fn to_unix(self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let year = i64::from(self.century) * 100 + i64::from(self.year) - i64::from(month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let march_month = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * march_month + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let time =
            i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        (days * DAY_SECONDS + time).clamp(SECONDS_FIRST, SECONDS_END - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_moments() {
        let moment = Moment::from_unix(951_782_400);
        assert_eq!(
            (moment.century, moment.year, moment.month, moment.day),
            (20, 0, 2, 29)
        );
        assert_eq!(moment.weekday, 3, "a Tuesday");
        let moment = Moment::from_unix(0);
        assert_eq!(
            (moment.century, moment.year, moment.month, moment.day),
            (19, 70, 1, 1)
        );
        assert_eq!(moment.weekday, 5, "a Thursday");
        let moment = Moment::from_unix(4_102_444_799);
        assert_eq!(
            (moment.century, moment.year, moment.month, moment.day),
            (20, 99, 12, 31)
        );
        assert_eq!((moment.hour, moment.minute, moment.second), (23, 59, 59));
    }

    proptest! {
        #[test]
        fn there_and_back(seconds in SECONDS_FIRST..SECONDS_END) {
            prop_assert_eq!(Moment::from_unix(seconds).to_unix(), seconds);
        }
    }
}
