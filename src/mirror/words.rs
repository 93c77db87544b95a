//! Numbers as people read them.

/// A number with its noun: "1 packet", "2 packets".
pub fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", ending(number))
}

/// What a noun ends with behind a number.
pub const fn ending(number: u64) -> &'static str {
    if number == 1 { "" } else { "s" }
}

/// `part` of `whole` for people: "12.5 %".
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".to_owned();
    }
    let share = part as f64 * 100.0 / whole as f64;
    if share > 0.0 && share < 0.1 {
        "<0.1 %".to_owned()
    } else {
        format!("{share:.1} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_agree_with_their_number() {
        let said = [0, 1, 2].map(|number| counted(number, "packet"));
        assert_eq!(said, ["0 packets", "1 packet", "2 packets"]);
    }

    #[test]
    fn shares() {
        assert_eq!(percent(0, 0), "0 %");
        assert_eq!(percent(0, 5), "0.0 %");
        assert_eq!(percent(1, 5000), "<0.1 %");
        assert_eq!(percent(1, 8), "12.5 %");
    }
}
