//! Templates of flow records: one for each set of fields that records have.
//!
//! Few sets occur: a run has some dozens. They are never withdrawn, so that a template means the same as long as the
//! session lasts.

use hashbrown::HashMap;

use super::fields::{ENDING, Present, elements, template};
use crate::flow::columns::Element;

/// The first template of flows. Those before are of options.
pub const FIRST: u16 = 258;

/// Most bytes of memory that the table takes: numbers end at 65,535.
pub const MEMORY_BYTES: usize =
    (u16::MAX - FIRST) as usize * (3 * size_of::<Present>() + 2 * size_of::<(Present, u16)>());

/// The templates of one exporter.
#[derive(Debug, Default)]
pub struct Templates {
    ids: HashMap<Present, u16, foldhash::fast::RandomState>,
    /// In the order of their numbers.
    all: Vec<Present>,
    /// That of the record before: most are like it.
    last: Option<(Present, u16)>,
}

/// The number of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id {
    /// It has been handed out before.
    Known(u16),
    /// It is new: its record has to be sent first.
    New(u16),
}

impl Templates {
    /// The number of the template of records that have the fields `present`; `None` where there are no numbers left.
    pub fn id(&mut self, present: Present) -> Option<Id> {
        if let Some((last, id)) = self.last
            && last == present
        {
            return Some(Id::Known(id));
        }
        let id = match self.ids.get(&present) {
            Some(id) => Id::Known(*id),
            None => {
                let id = u16::try_from(self.all.len()).ok()?.checked_add(FIRST)?;
                self.ids.insert(present, id);
                self.all.push(present);
                Id::New(id)
            }
        };
        let (Id::Known(number) | Id::New(number)) = id;
        self.last = Some((present, number));
        Some(id)
    }

    /// The records of all templates so far but for the last `but`.
    pub fn records(&self, but: usize) -> impl Iterator<Item = Vec<u8>> {
        let len = self.all.len().saturating_sub(but);
        (FIRST..)
            .zip(self.all.iter().take(len))
            .map(|(id, present)| record(id, *present))
    }
}

/// The record of the template `id` of the fields `present`.
pub fn record(id: u16, present: Present) -> Vec<u8> {
    let has = |(at, _): &(usize, &Element)| present >> at & 1 == 1;
    let fields = elements().iter().enumerate().filter(has);
    let fields = fields.map(|(_, element)| *element).chain(ENDING);
    template(id, &fields.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_of_fields_has_a_template() {
        let mut templates = Templates::default();
        assert_eq!(templates.id(0b11), Some(Id::New(258)));
        assert_eq!(templates.id(0b11), Some(Id::Known(258)));
        assert_eq!(templates.id(0b01), Some(Id::New(259)));
        assert_eq!(templates.id(0b11), Some(Id::Known(258)));
        assert_eq!(templates.records(0).count(), 2);
        assert_eq!(templates.records(1).count(), 1);
    }

    /// RFC 7011 §3.4.1: number, count, then of each element number and length: flowStartNanoseconds is 156 with 8 bytes.
    #[test]
    fn a_template_by_hand() {
        let ending = [0, 152, 0, 8, 0, 153, 0, 8, 0, 239, 0, 1];
        let by_hand = [&[1, 2, 0, 5, 0, 156, 0, 8, 0, 157, 0, 8][..], &ending];
        assert_eq!(record(258, 0b11), by_hand.concat());
        // An element of an enterprise has the first bit set and says whose it is: 32473/4, of variable length.
        let at = elements()
            .iter()
            .position(|element| element.name == "communityId");
        let by_hand = [
            &[1, 3, 0, 4, 0x80, 4, 255, 255, 0, 0, 0x7e, 0xd9][..],
            &ending,
        ];
        assert_eq!(record(259, 1 << at.unwrap()), by_hand.concat());
    }

    #[test]
    fn numbers_end() {
        let mut templates = Templates::default();
        let free = u16::MAX - FIRST + 1;
        for present in 0..u128::from(free) {
            assert!(matches!(templates.id(present), Some(Id::New(_))));
        }
        assert_eq!(templates.id(u128::MAX), None);
        assert_eq!(templates.id(0), Some(Id::Known(FIRST)));
    }
}
