#![allow(clippy::unwrap_used)]
use super::*;
use crate::engine::testing::job;

fn submit(queue: &Arc<Queue>, priority: Priority) -> Result<Ticket, EngineError> {
    let submission = Submission {
        job: Arc::new(job()),
        priority,
        deadline: None,
        listener: None,
        bounded: true,
    };
    queue.push(submission)
}

fn next(queue: &Queue) -> Option<Entry> {
    match queue.next(Duration::ZERO) {
        Next::Job(entry) => Some(*entry),
        Next::Idle | Next::Closed => None,
    }
}

#[test]
fn a_dropped_ticket_gives_its_place_back_at_once() {
    let queue = Arc::new(Queue::new(0, Arc::default()));
    let first = submit(&queue, Priority::High).unwrap();
    let refused = submit(&queue, Priority::High).unwrap_err();
    let expected = EngineError::Busy {
        ahead: 1,
        retry_after: FIRST_ESTIMATE,
    };
    assert_eq!(refused, expected);
    drop(first);
    assert_eq!(queue.load().queued, 0);
    let queued = crate::telemetry::StageLabel { stage: "queued" };
    let counted = queue.metrics.cancellations.get_or_create(&queued).get();
    assert_eq!(counted, 1);
    submit(&queue, Priority::High).unwrap();
}

#[test]
fn the_running_job_does_not_count_as_waiting_and_the_decoding_one_not_as_running() {
    let queue = Arc::new(Queue::new(1, Arc::default()));
    let _first = submit(&queue, Priority::High).unwrap();
    let entry = next(&queue).unwrap();
    let _second = submit(&queue, Priority::High).unwrap();
    let load = Load {
        running: 1,
        queued: 1,
        queue_capacity: 1,
    };
    assert_eq!(queue.load(), load);
    assert_eq!(queue.admit().unwrap_err().code(), "busy");
    queue.denoised(entry.id);
    queue.decoding(entry.id);
    queue.admit().unwrap();
    queue.left(entry.id, Some(Duration::from_secs(1)));
    assert_eq!(queue.load().running, 0);
}

#[test]
fn a_closed_queue_drains_and_refuses() {
    let queue = Arc::new(Queue::new(4, Arc::default()));
    let _ticket = submit(&queue, Priority::Normal).unwrap();
    queue.close();
    let refused = submit(&queue, Priority::Normal).unwrap_err();
    assert_eq!(refused, EngineError::ShuttingDown);
    assert!(next(&queue).is_some());
    assert!(matches!(queue.next(Duration::from_secs(60)), Next::Closed));
}

#[test]
fn cancelling_all_reaches_running_and_waiting() {
    let queue = Arc::new(Queue::new(4, Arc::default()));
    let _first = submit(&queue, Priority::Normal).unwrap();
    let mut second = submit(&queue, Priority::Normal).unwrap();
    let running = next(&queue).unwrap();
    queue.cancel_all(&EngineError::ShuttingDown);
    assert!(running.control.cancelled());
    let answer = second.answer.try_recv().unwrap().unwrap_err();
    assert_eq!(answer, EngineError::ShuttingDown);
}

#[test]
fn higher_priority_goes_first_and_equals_in_order_of_arrival() {
    let queue = Arc::new(Queue::new(8, Arc::default()));
    use Priority::{High, Low, Normal};
    let tickets = [Low, Normal, High, Normal, High, Low].map(|p| submit(&queue, p).unwrap());
    let ids = tickets.each_ref().map(Ticket::id);
    let order = std::iter::from_fn(|| next(&queue).map(|entry| entry.id)).collect::<Vec<_>>();
    let expected = [2, 4, 1, 3, 0, 5].map(|index: usize| ids[index]);
    assert_eq!(order, expected);
}

#[test]
fn what_cannot_be_done_in_time_is_refused_at_once() {
    let queue = Arc::new(Queue::new(8, Arc::default()));
    let cost = job().cost;
    let mut speed = Speed::default();
    speed.denoised(cost, Duration::from_secs(100));
    speed.decoded(cost, Duration::from_secs(20));
    let with = |deadline: u64, priority: Priority| {
        queue.push(Submission {
            job: Arc::new(job()),
            priority,
            deadline: Some(Duration::from_secs(deadline)),
            listener: None,
            bounded: true,
        })
    };
    let _unknown = with(1, Priority::High).expect("nothing measured yet, nothing refused");
    queue.set_speed(speed);
    assert_eq!(with(119, Priority::High).unwrap_err().code(), "too_slow");
    let late = with(200, Priority::High).unwrap_err();
    let expected = EngineError::Deadline {
        ahead: 1,
        estimate: Duration::from_secs(220),
        deadline: Duration::from_secs(200),
        retry_after: Duration::from_secs(20),
    };
    assert_eq!(late, expected);
    let second = with(221, Priority::High).unwrap();
    drop(second);
    // Jobs of lower priority do not stand in the way.
    let _background = submit(&queue, Priority::Low).unwrap();
    let _third = with(221, Priority::High).unwrap();
}
