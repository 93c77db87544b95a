//! What an exporter says of itself: totals (RFC 7011 §4), and what its enterprise elements are (RFC 5610).

use super::fields::{write_elements, write_text};
use crate::flow::columns::{
    COLUMNS, Column, Element, Kind, OWN_ENTERPRISE, REVERSE_BIT, Unit, VARIABLE,
};

/// The template of totals.
pub const TOTALS: u16 = 256;

/// The template of types of elements.
pub const TYPES: u16 = 257;

/// What an exporter has done since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages sent.
    pub messages: u64,
    /// Flow records sent.
    pub flows: u64,
    /// Bytes of messages sent.
    pub bytes: u64,
    /// Flow records that were not sent.
    pub not_sent: u64,
    /// Packets that belong to no flow.
    pub ignored: u64,
    /// Packets that were lost before they could be looked at.
    pub dropped: u64,
}

const fn element(number: u16, len: u16, name: &'static str) -> Element {
    Element {
        enterprise: None,
        number,
        len,
        name,
    }
}

const TOTALS_SCOPE: [Element; 1] = [element(149, 4, "observationDomainId")];
const TOTALS_FIELDS: [Element; 6] = [
    element(41, 8, "exportedMessageTotalCount"),
    element(42, 8, "exportedFlowRecordTotalCount"),
    element(40, 8, "exportedOctetTotalCount"),
    element(166, 8, "notSentFlowTotalCount"),
    element(164, 8, "ignoredPacketTotalCount"),
    element(135, 8, "droppedPacketTotalCount"),
];

const TYPES_SCOPE: [Element; 2] = [
    element(346, 4, "privateEnterpriseNumber"),
    element(303, 2, "informationElementId"),
];
const TYPES_FIELDS: [Element; 7] = [
    element(339, 1, "informationElementDataType"),
    element(344, 1, "informationElementSemantics"),
    element(345, 2, "informationElementUnits"),
    element(342, 8, "informationElementRangeBegin"),
    element(343, 8, "informationElementRangeEnd"),
    element(341, VARIABLE, "informationElementName"),
    element(340, VARIABLE, "informationElementDescription"),
];

/// The templates of options.
pub fn templates() -> [Vec<u8>; 2] {
    [
        template(TOTALS, &TOTALS_SCOPE, &TOTALS_FIELDS),
        template(TYPES, &TYPES_SCOPE, &TYPES_FIELDS),
    ]
}

/// The record of a template of options: number, count, how many of them are the scope (RFC 7011 §3.4.2.2).
fn template(id: u16, scope: &[Element], fields: &[Element]) -> Vec<u8> {
    let count = |elements: usize| u16::try_from(elements).unwrap_or(u16::MAX);
    let mut out = Vec::new();
    for number in [id, count(scope.len() + fields.len()), count(scope.len())] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    write_elements(scope, &mut out);
    write_elements(fields, &mut out);
    out
}

impl Totals {
    /// The record of these totals of the observation domain `domain`.
    pub fn record(&self, domain: u32) -> Vec<u8> {
        let Self {
            messages,
            flows,
            bytes,
            not_sent,
            ignored,
            dropped,
        } = *self;
        let mut out = domain.to_be_bytes().to_vec();
        for total in [messages, flows, bytes, not_sent, ignored, dropped] {
            out.extend_from_slice(&total.to_be_bytes());
        }
        out
    }
}

/// The records that say what the elements of our enterprise are.
pub fn types() -> impl Iterator<Item = Vec<u8>> {
    let fields = COLUMNS.iter().flat_map(|column| {
        let elements = column.ipfix.elements();
        elements.map(move |element| (column, element))
    });
    let own = fields.filter(|(_, element)| element.enterprise == Some(OWN_ENTERPRISE));
    own.map(|(column, element)| type_of(column, element))
}

fn type_of(column: &Column, element: Element) -> Vec<u8> {
    let (name, description) = described(column, element);
    let mut out = OWN_ENTERPRISE.to_be_bytes().to_vec();
    out.extend_from_slice(&element.number.to_be_bytes());
    out.push(data_type(column.kind, element.len));
    out.push(semantics(column.kind, element));
    out.extend_from_slice(&units(column.unit).to_be_bytes());
    // Both are zero where there is no range.
    let largest = column.kind.largest().unwrap_or_default();
    for end in [0, largest] {
        out.extend_from_slice(&end.to_be_bytes());
    }
    write_text(&name, &mut out);
    write_text(&description, &mut out);
    out
}

/// Name and description. That of the other direction begins with "reverse" (RFC 5103 §6.1), and its column's sentence
/// may say no more than "the same".
fn described(column: &Column, element: Element) -> (String, String) {
    if element.number & REVERSE_BIT == 0 {
        return (element.name.to_owned(), column.sentence.to_owned());
    }
    let mut letters = element.name.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    let name: String = "reverse".chars().chain(first).chain(letters).collect();
    (name, format!("{} of the responder.", element.name))
}

/// IANA's number of an abstract data type (RFC 5610 §3.1).
fn data_type(kind: Kind, len: u16) -> u8 {
    match (kind, len) {
        (Kind::Text, _) => 13,
        (Kind::Mac, _) => 12,
        (Kind::Time, _) => 17,
        (Kind::Address | Kind::Addresses, 4) => 18,
        (Kind::Address | Kind::Addresses, _) => 19,
        // Unsigned numbers.
        (_, 1) => 1,
        (_, 2) => 2,
        (_, 4) => 3,
        (_, _) => 4,
    }
}

/// IANA's number of the semantics (RFC 5610 §3.6).
fn semantics(kind: Kind, element: Element) -> u8 {
    const DEFAULT: u8 = 0;
    const QUANTITY: u8 = 1;
    const DELTA_COUNTER: u8 = 3;
    const IDENTIFIER: u8 = 4;
    match kind {
        Kind::Text | Kind::Address | Kind::Addresses | Kind::Mac | Kind::Time => DEFAULT,
        Kind::Id | Kind::Port | Kind::U8 | Kind::Direction => IDENTIFIER,
        _ if element.name.ends_with("DeltaCount") => DELTA_COUNTER,
        _ => QUANTITY,
    }
}

/// IANA's number of the units (RFC 5610 §3.5).
const fn units(unit: Unit) -> u16 {
    match unit {
        Unit::None => 0,
        Unit::Bytes => 2,
        Unit::Packets => 3,
        Unit::Ns => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::elements;
    use super::*;

    /// RFC 7011 §3.4.2.2: number, fields, those of the scope, then the elements.
    #[test]
    fn the_template_of_totals_by_hand() {
        let by_hand = [
            &[1, 0, 0, 7, 0, 1, 0, 149, 0, 4][..],
            &[
                0, 41, 0, 8, 0, 42, 0, 8, 0, 40, 0, 8, 0, 166, 0, 8, 0, 164, 0, 8, 0, 135, 0, 8,
            ],
        ];
        assert_eq!(templates()[0], by_hand.concat());
        let totals = Totals {
            messages: 1,
            dropped: 258,
            ..Totals::default()
        };
        let record = totals.record(7);
        assert_eq!(record.len(), 52);
        assert_eq!(record[..12], [0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(record[50..], [1, 2]);
    }

    /// Enterprise 32473, element 2, unsigned64, delta counter, packets; its reverse has 0x4000 and another name.
    #[test]
    fn a_type_by_hand() {
        let types: Vec<_> = types().collect();
        let begins = |bytes: &[u8]| types.iter().any(|record| record.starts_with(bytes));
        let truncated = [
            &[0, 0, 0x7e, 0xd9, 0, 2, 4, 3, 0, 3][..],
            &[0; 8],
            &[255; 8],
            &[25],
            b"truncatedPacketDeltaCount",
        ];
        assert!(begins(&truncated.concat()));
        let reverse = [
            &[0, 0, 0x7e, 0xd9, 0x40, 2, 4, 3, 0, 3][..],
            &[0; 8],
            &[255; 8],
            &[32],
            b"reverseTruncatedPacketDeltaCount",
        ];
        assert!(begins(&reverse.concat()));
        let own = elements()
            .iter()
            .filter(|element| element.enterprise == Some(OWN_ENTERPRISE));
        assert_eq!(types.len(), own.count());
    }
}
