package broker

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"unsafe"

	"go-micro.dev/v5/broker"
)

// finder finds the event of a running handler by the identity of its header map.
// It keeps track of them only after the first call of EventFinder.
type finder struct {
	wanted atomic.Bool
	events sync.Map // unsafe.Pointer to *event
}

// EventFinder returns a function that finds the event of a running handler of b.
// It takes the Message.Header of the delivery: that very map, not a copy. For any
// other map, and for brokers of other kinds, it returns nil.
//
// It is for code between the broker and a handler that is not given the event,
// such as subscriber wrappers of go-micro's server. Users want package wrapper
// instead. From the first call on, b keeps track of its deliveries.
func EventFinder(b broker.Broker) func(header map[string]string) broker.Event {
	own, ok := b.(*jetstreamBroker)
	if !ok || own == nil {
		return func(map[string]string) broker.Event { return nil }
	}
	running := &own.running
	running.wanted.Store(true)
	return func(header map[string]string) broker.Event {
		if header == nil {
			return nil
		}
		if e, ok := running.events.Load(identity(header)); ok {
			return e.(*event)
		}
		return nil // not a nil *event
	}
}

func identity(header map[string]string) unsafe.Pointer {
	return reflect.ValueOf(header).UnsafePointer()
}

// SetHandlerError says what a handler of an event that [EventFinder] found
// really returned. It is for code between the handler and the broker that passes
// on only a text. If the broker then gets an error, this one counts in its place:
// [RetryAfter], [Snooze], [Discard], a [*PanicError].
//
// An event may have several handlers, and each may fail. The message is then
// discarded only if all of those that failed discard it, because a redelivery
// goes to all of them. It is snoozed only if all of those snooze it. Beside a
// failure, a snooze is a [RetryAfter].
func SetHandlerError(e broker.Event, err error) {
	own, ok := e.(*event)
	if !ok || own == nil || own.failures == nil || err == nil {
		return
	}
	own.failures.mu.Lock()
	defer own.failures.mu.Unlock()
	own.failures.errs = append(own.failures.errs, err)
}

// failures are the errors of an event's handlers.
type failures struct {
	mu   sync.Mutex
	errs []error
}

// handleFindable runs the handler while its event can be found.
func (s *subscription) handleFindable(e *event) {
	o := &e.outcome
	e.failures = &failures{}
	id := identity(e.message.Header) // the handler may put another map there
	running := &s.session.broker.running
	running.events.Store(id, e)
	defer running.events.Delete(id)
	o.err = s.handler(e)
	if o.err == nil {
		return
	}
	if cause := e.failures.joined(); cause != nil {
		o.err = cause
		o.panicked = findError[*PanicError](cause)
	}
}

// joined returns one error for all, nil if there is none.
func (f *failures) joined() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.errs) == 1 {
		return f.errs[0]
	}
	discards, snoozes := 0, 0
	for _, err := range f.errs {
		switch {
		case IsDiscard(err):
			discards++
		case IsSnooze(err):
			snoozes++
		}
	}
	if n := len(f.errs); discards == n || snoozes == n {
		return errors.Join(f.errs...)
	}
	all := make([]error, len(f.errs))
	for i, err := range f.errs {
		switch snooze := snoozeOf(err); {
		case snooze != nil:
			all[i] = RetryAfter(snooze.delay, errors.New(fmt.Sprint(err)))
		case IsDiscard(err):
			all[i] = errors.New(fmt.Sprint(err)) // the text alone, should others want it again
		default:
			all[i] = err
		}
	}
	return errors.Join(all...)
}
