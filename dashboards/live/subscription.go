package live

import (
	"sync"
	"time"

	jsbroker "go-micro-jetstream/broker"
)

// subscription is what is known of a subscription. A delivery locks it twice, for some
// nanoseconds each; no other lock is taken while it is held.
type subscription struct {
	name  jsbroker.Subscription
	since time.Time
	most  int // how many handlers may run at a time

	mu         sync.Mutex
	inHand     func() int // messages that are fetched and not being handled; nil: none any more
	deliveries deliveries
	results    results
	failures   uint64
	state      subscriptionState
}

// subscriptionState is what changes rarely, beside deliveries.
type subscriptionState struct {
	consumer   string // its name now
	pending    uint64
	ackPending int
	ackLimit   int       // of ackPending; 0 means none
	paused     time.Time // until when the consumer is paused
	askedAt    time.Time // when the server told ackPending
	single     bool      // one replica at a time is active
	active     bool      // it is this one
	held       int       // messages in hand behind stuck keys, while these keep it from fetching
	attempt    int
	until      time.Time // the end of the back-off
	err        string
	errAt      time.Time
	failure    string // what a handler has returned last
	failureAt  time.Time
	ended      time.Time
}

// results counts deliveries by how they were settled.
type results struct{ ack, nak, term, none uint64 }

func (r *results) count(result jsbroker.Result) {
	switch result {
	case jsbroker.ResultAck:
		r.ack++
	case jsbroker.ResultNak:
		r.nak++
	case jsbroker.ResultTerm:
		r.term++
	default:
		r.none++
	}
}

func newSubscription(e *jsbroker.SubscriptionStart, remembers int) *subscription {
	s := &subscription{name: e.Subscription, since: time.Now(), most: e.Concurrency, inHand: e.InHand}
	s.deliveries.size = remembers + e.Concurrency
	return s
}

// handleStart notes that a handler begins.
func (s *subscription) handleStart(e *jsbroker.HandleStart) {
	s.mu.Lock()
	s.deliveries.start(e)
	s.mu.Unlock()
}

// handled notes that a handler is done.
func (s *subscription) handled(e *jsbroker.Handled) {
	s.mu.Lock()
	s.deliveries.end(e)
	s.results.count(e.Result)
	if e.Err != nil {
		s.failures++
	}
	s.mu.Unlock()
}

// messageOf returns a copy of what is known of a delivery that is being handled.
func (s *subscription) messageOf(d *jsbroker.Delivery) message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return messageOf(d, s.deliveries.traceparent(d))
}

// update changes the state.
func (s *subscription) update(change func(*subscriptionState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.state)
}

func (s *subscription) fetched(e *jsbroker.Fetched) {
	s.update(func(st *subscriptionState) { st.pending = e.NumPending })
}

func (s *subscription) consumerState(e *jsbroker.ConsumerState) {
	s.update(func(st *subscriptionState) {
		st.pending, st.ackPending, st.askedAt = e.Pending, e.AckPending, time.Now()
		st.ackLimit, st.paused = e.MaxAckPending, e.PausedUntil
		st.consumer = e.Consumer
	})
}

func (s *subscription) activeChanged(e *jsbroker.ActiveChanged) {
	s.update(func(st *subscriptionState) { st.single, st.active = true, e.Active })
}

func (s *subscription) held(e *jsbroker.Held) {
	s.update(func(st *subscriptionState) {
		st.held = 0
		if e.Full {
			st.held = e.Messages
		}
	})
}

// failed notes what a handler has returned.
func (s *subscription) failed(err string, at time.Time) {
	s.update(func(st *subscriptionState) { st.failure, st.failureAt = err, at })
}

func (s *subscription) fetchFailed(e *jsbroker.FetchError) {
	err := text(e.Err)
	s.update(func(st *subscriptionState) { st.err, st.errAt = err, time.Now() })
}

func (s *subscription) backedOff(e *jsbroker.Backoff) {
	s.update(func(st *subscriptionState) {
		st.attempt, st.until = e.Attempt, time.Now().Add(e.Delay)
		st.consumer = e.Consumer
	})
}

func (s *subscription) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.ended = time.Now()
	s.inHand = nil // it keeps the broker in memory
}

// waiting returns how many messages are fetched and not being handled. The broker says
// so, without the lock.
func (s *subscription) waiting() int {
	s.mu.Lock()
	inHand := s.inHand
	s.mu.Unlock()
	if inHand == nil {
		return 0
	}
	return inHand()
}
