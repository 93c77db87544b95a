//! Orders to the threads of a run that goes on: one side gives them, every worker and the capture's writer
//! take them between two batches.
//!
//! While there is none, that costs those who take them one relaxed load a batch. Nobody waits for the one who
//! gives them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use tokio::sync::mpsc;

use super::change::Change;
use crate::mirror::session_key::SessionKey;

/// Orders that may wait for a thread: more come in vain while it takes none.
const MOST_WAITING: usize = 4;

/// What a thread is to do between two batches.
pub enum Order<A> {
    /// Say what it has come to so far.
    Tell(Tell<A>),
    /// End the files of a store, and go on in others.
    Rotate,
    /// Take other settings.
    Change(Changing),
}

/// How much an answer tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wants {
    /// All that is known, as at the end of a run.
    All,
    /// What is counted: little enough to be asked for every second.
    Counts,
    /// What is known of truncation in these mirror sessions.
    Cuts(Arc<[SessionKey]>),
}

/// Other settings; whoever holds them has not taken them yet, which the one who ordered them waits for.
pub struct Changing {
    /// What holds from now on.
    pub change: Arc<Change>,
    /// Gone once nobody waits to take them.
    _awaited: Sender<()>,
}

/// How often it is looked whether a change is taken.
const LOOK: Duration = Duration::from_millis(5);

/// Asks for an answer.
pub struct Tell<A> {
    answers: mpsc::Sender<(usize, A)>,
    who: usize,
    wants: Wants,
}

impl<A> Tell<A> {
    /// How much is asked for.
    pub const fn wants(&self) -> &Wants {
        &self.wants
    }

    /// Answers with what `answer` gathers, if whoever asked still waits for it.
    pub fn answer(self, answer: impl FnOnce() -> A) {
        if !self.answers.is_closed() {
            // There is a place for the answer of each.
            let _ = self.answers.try_send((self.who, answer()));
        }
    }
}

/// What those who were asked said.
pub struct Answers<A> {
    /// The answers that came in time, each with the number of the thread.
    pub given: Vec<(usize, A)>,
    /// The threads that did not answer.
    pub silent: Vec<usize>,
}

/// The side that gives orders; clones give them to the same threads.
pub struct Orders<A> {
    posts: Arc<[Post<A>]>,
}

impl<A> Clone for Orders<A> {
    fn clone(&self) -> Self {
        let posts = Arc::clone(&self.posts);
        Self { posts }
    }
}

struct Post<A> {
    /// Wakes a thread that sleeps for long.
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
    given: Arc<AtomicU64>,
    queue: Sender<Order<A>>,
}

/// The side that takes orders.
pub struct Inbox<A> {
    given: Arc<AtomicU64>,
    taken: u64,
    queue: Receiver<Order<A>>,
}

/// One who gives orders and `threads` who take them.
pub fn orders<A>(threads: usize) -> (Orders<A>, Vec<Inbox<A>>) {
    let pair = |_| {
        let (sender, receiver) = bounded(MOST_WAITING);
        let given = Arc::new(AtomicU64::new(0));
        let post = Post {
            wake: OnceLock::new(),
            given: Arc::clone(&given),
            queue: sender,
        };
        let inbox = Inbox {
            given,
            taken: 0,
            queue: receiver,
        };
        (post, inbox)
    };
    let (posts, inboxes): (Vec<_>, Vec<_>) = (0..threads).map(pair).unzip();
    let orders = Orders {
        posts: posts.into(),
    };
    (orders, inboxes)
}

impl<A> Orders<A> {
    /// From now on `wake` is called behind each order to thread number `who`, which sleeps for long.
    pub fn wake_with(&self, who: usize, wake: impl Fn() + Send + Sync + 'static) {
        if let Some(post) = self.posts.get(who) {
            let _ = post.wake.set(Box::new(wake));
        }
    }

    /// Has the files of stores ended; who has none does nothing.
    pub fn rotate(&self) {
        for post in self.posts.iter() {
            post.give(Order::Rotate);
        }
    }

    /// Has all take other settings, and waits until they hold; how many threads had not taken them when `wait` was over.
    pub fn change(&self, change: &Arc<Change>, wait: Duration) -> usize {
        let mut looks = wait.as_millis() / LOOK.as_millis();
        // Each has its own: who has taken it is known.
        let mut awaited = Vec::new();
        for post in self.posts.iter() {
            let (sender, taken) = bounded::<()>(0);
            let mut order = Some(Order::Change(Changing {
                change: Arc::clone(change),
                _awaited: sender,
            }));
            // A thread that has orders enough takes some soon; one that is gone has ended.
            while let Some(refused) = order.take().and_then(|order| post.try_give(order)) {
                if looks == 0 {
                    break;
                }
                looks -= 1;
                std::thread::sleep(LOOK);
                order = Some(refused);
            }
            awaited.push(taken);
        }
        loop {
            awaited.retain(|taken| taken.try_recv() == Err(TryRecvError::Empty));
            if awaited.is_empty() || looks == 0 {
                return awaited.len();
            }
            looks -= 1;
            std::thread::sleep(LOOK);
        }
    }

    /// Asks all and returns the answers that came before `wait` was over, and who gave none.
    pub async fn ask(&self, wants: Wants, wait: Duration) -> Answers<A> {
        let asked = self.posts.len();
        let (sender, mut receiver) = mpsc::channel(asked.max(1));
        for (who, post) in self.posts.iter().enumerate() {
            post.give(Order::Tell(Tell {
                answers: sender.clone(),
                who,
                wants: wants.clone(),
            }));
        }
        drop(sender);
        let mut given = Vec::with_capacity(asked);
        let all = async {
            // Ends when each has answered, or is gone.
            while let Some(answer) = receiver.recv().await {
                given.push(answer);
            }
        };
        let _ = tokio::time::timeout(wait, all).await;
        let mut silent: Vec<usize> = (0..asked).collect();
        silent.retain(|who| given.iter().all(|(known, _)| known != who));
        Answers { given, silent }
    }
}

impl<A> Post<A> {
    fn give(&self, order: Order<A>) {
        // Counted once it is there: whoever sees the count finds it, at the latest at the next look.
        self.try_give(order);
    }

    /// Gives an order back for which there is no room; a thread that is gone needs none.
    fn try_give(&self, order: Order<A>) -> Option<Order<A>> {
        match self.queue.try_send(order) {
            Ok(()) => {
                self.given.fetch_add(1, Ordering::Relaxed);
                if let Some(wake) = self.wake.get() {
                    wake();
                }
                None
            }
            Err(TrySendError::Full(order)) => Some(order),
            Err(TrySendError::Disconnected(_)) => None,
        }
    }
}

impl<A> Inbox<A> {
    /// The next order, if there is one.
    #[inline]
    pub fn take(&mut self) -> Option<Order<A>> {
        if self.given.load(Ordering::Relaxed) == self.taken {
            return None;
        }
        let order = self.queue.try_recv().ok()?;
        self.taken += 1;
        Some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(orders: &Orders<u32>, wait: Duration) -> Answers<u32> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(orders.ask(Wants::Counts, wait))
    }

    #[test]
    fn every_question_is_answered_once_by_each() {
        let (orders, mut inboxes) = orders(2);
        assert!(inboxes[0].take().is_none(), "nobody asked");
        let answers = ask(&orders, Duration::from_millis(1));
        assert_eq!((answers.given, answers.silent), (vec![], vec![0, 1]));
        // Both come too late: nobody waits for these answers, and they are no answers to the next question.
        for inbox in &mut inboxes {
            let Some(Order::Tell(tell)) = inbox.take() else {
                panic!("no order");
            };
            tell.answer(|| panic!("nobody waits for it"));
            assert!(inbox.take().is_none());
        }
        let asking = std::thread::spawn(move || {
            let answers = ask(&orders, Duration::from_secs(60));
            (orders, answers)
        });
        let mut calls = 0;
        while calls < 2 {
            for inbox in &mut inboxes {
                if let Some(Order::Tell(tell)) = inbox.take() {
                    calls += 1;
                    assert_eq!(tell.wants(), &Wants::Counts);
                    tell.answer(|| 1 + calls);
                }
            }
            std::thread::yield_now();
        }
        let (orders, Answers { mut given, silent }) = asking.join().unwrap();
        given.sort_unstable();
        assert_eq!(
            given.iter().map(|(who, _)| *who).collect::<Vec<_>>(),
            [0, 1]
        );
        assert_eq!(given.iter().map(|(_, said)| *said).sum::<u32>(), 2 + 3);
        assert!(silent.is_empty());
        // Who takes no orders is not flooded with them, and who is gone is not waited for.
        for _ in 0..2 * MOST_WAITING {
            ask(&orders, Duration::ZERO);
        }
        drop(inboxes);
        assert_eq!(ask(&orders, Duration::from_secs(60)).silent, [0, 1]);
    }

    /// Who changes something waits until each has done it: a thread that holds the order has not.
    #[test]
    fn a_change_is_waited_for() {
        let (orders, mut inboxes) = orders::<()>(3);
        let change = Arc::new(Change::default());
        // One has ended, one does not come by.
        drop(inboxes.pop());
        let mut late = inboxes.pop().unwrap();
        let mut prompt = inboxes.pop().unwrap();
        let working = std::thread::spawn(move || {
            while prompt.take().is_none() {
                std::thread::yield_now();
            }
        });
        assert_eq!(orders.change(&change, Duration::from_millis(50)), 1);
        working.join().unwrap();
        let Some(Order::Change(held)) = late.take() else {
            panic!("no change");
        };
        let (give, given) = bounded(1);
        let waiting = std::thread::spawn(move || {
            let left = orders.change(&change, Duration::from_secs(60));
            give.send(left).unwrap();
        });
        let second = loop {
            if let Some(Order::Change(second)) = late.take() {
                break second;
            }
            std::thread::yield_now();
        };
        drop(held);
        assert!(given.try_recv().is_err(), "the second is held yet");
        drop(second);
        assert_eq!(given.recv(), Ok(0));
        waiting.join().unwrap();
    }
}
