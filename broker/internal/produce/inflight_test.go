package produce

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
	"go-micro-jetstream/internal/natstest"
)

func newInflight() *inflight {
	return &inflight{prefix: "inbox.", waiting: make(map[uint64]*waiter)}
}

// wait registers a waiter.
func (f *inflight) wait(t *testing.T, subject string, limit time.Duration) (w *waiter, reply string) {
	t.Helper()
	one := newWaiter()
	one.subject, one.limit = subject, time.Now().Add(limit)
	reply, _, ok := f.register(&one, f.now())
	if !ok {
		t.Fatal("not registered")
	}
	return &one, reply
}

func (w *waiter) outcome() outcome {
	select {
	case got := <-w.answer:
		return got.result(&asset.Stream{Name: "ORDERS"}).outcome
	default:
		return pending
	}
}

func TestAnswersReachTheirWaitersOnce(t *testing.T) {
	t.Parallel()
	f := newInflight()
	defer f.close()
	one, first := f.wait(t, "orders", time.Minute)
	other, second := f.wait(t, "orders", time.Minute)
	f.receive(&nats.Msg{Subject: second, Data: []byte(`{"stream":"ORDERS","seq":1}`)})
	f.receive(&nats.Msg{Subject: second, Data: []byte(`{"stream":"ORDERS","seq":2}`)})
	f.receive(&nats.Msg{Subject: "inbox.x"})
	f.receive(&nats.Msg{Subject: "inbox.99"})
	if got := other.outcome(); got != stored {
		t.Errorf("outcome %d", got)
	}
	if f.remove(other) {
		t.Error("a waiter with an answer was removed")
	}
	if got := one.outcome(); got != pending || !f.remove(one) {
		t.Errorf("outcome %d", got)
	}
	f.receive(&nats.Msg{Subject: first}) // too late
	if got := one.outcome(); got != pending || first == second {
		t.Errorf("outcome %d", got)
	}
	if _, third := f.wait(t, "orders", time.Minute); third == first || third == second {
		t.Errorf("the reply subject %s is used again", third)
	}
}

// What acknowledges an earlier copy ends a later try. What refuses it does not.
func TestAnswersToEarlierCopies(t *testing.T) {
	t.Parallel()
	f := newInflight()
	defer f.close()
	w, first := f.wait(t, "orders", time.Minute)
	f.remove(w)
	f.receive(&nats.Msg{Subject: first, Data: []byte(`{"stream":"ORDERS","seq":1}`)}) // between two tries
	second, _, _ := f.register(w, f.now())
	f.receive(&nats.Msg{Subject: first, Data: []byte(`{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}`)})
	if got := w.outcome(); got != pending || first == second {
		t.Errorf("outcome %d, reply subjects %s and %s", got, first, second)
	}
	f.receive(&nats.Msg{Subject: first, Data: []byte(`{"stream":"ORDERS","seq":1}`)})
	if got := w.outcome(); got != stored {
		t.Errorf("outcome %d", got)
	}
	f.receive(&nats.Msg{Subject: second, Data: []byte(`{"stream":"ORDERS","seq":1,"duplicate":true}`)})
	if got := w.outcome(); got != pending || len(f.waiting) > 0 {
		t.Errorf("outcome %d, %d wait", got, len(f.waiting))
	}
	f.register(w, f.now())
	f.interrupt()
	if got, again := w.outcome(), w.outcome(); got != interrupted || again != pending {
		t.Errorf("outcomes %d and %d", got, again)
	}
	w.limit = time.Now()
	f.register(w, f.now())
	natstest.Eventually(t, "it is over", func() bool { return w.outcome() == unanswered })
	if _, ok := f.forget(w); ok || len(f.waiting) > 0 {
		t.Errorf("%d wait", len(f.waiting))
	}
}

// What acknowledges an earlier copy between two tries is kept, and wakes the publish once.
// What refuses it then is for nobody.
func TestAnswersBetweenTries(t *testing.T) {
	t.Parallel()
	f := newInflight()
	defer f.close()
	w, first := f.wait(t, "orders", time.Nanosecond)
	natstest.Eventually(t, "it is over", func() bool { return w.outcome() == unanswered })
	if f.remove(w) {
		t.Error("a try that is over was removed")
	}
	woken := 0
	f.attend(w, func() { woken++ })
	f.receive(&nats.Msg{Subject: first, Data: []byte(`{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}`)})
	f.refuse(fmt.Errorf(`%w: Permissions Violation for Publish to "orders"`, nats.ErrPermissionViolation))
	if got := w.outcome(); got != pending || woken > 0 {
		t.Errorf("outcome %d, woken %d times", got, woken)
	}
	f.receive(&nats.Msg{Subject: first, Data: []byte(`{"stream":"ORDERS","seq":1}`)})
	f.receive(&nats.Msg{Subject: first, Data: []byte(`{"stream":"ORDERS","seq":1,"duplicate":true}`)})
	if got := w.outcome(); got != pending || woken != 1 || len(f.waiting) > 0 {
		t.Errorf("outcome %d, woken %d times, %d wait", got, woken, len(f.waiting))
	}
	f.attend(w, func() { woken++ })
	if _, late, ok := f.register(w, f.now()); !ok || late.msg == nil || woken != 2 || len(f.waiting) > 0 {
		t.Errorf("%v, %v, woken %d times, %d wait", late, ok, woken, len(f.waiting))
	}
	if late, ok := f.forget(w); !ok || late.msg == nil {
		t.Error("the acknowledgement is lost")
	}
	if _, ok := f.forget(w); ok {
		t.Error("the acknowledgement is there twice")
	}
}

// A loss between the look at the connection and the registration is noticed.
func TestLossBeforeTheRegistration(t *testing.T) {
	t.Parallel()
	f := newInflight()
	before := f.now()
	w, _ := f.wait(t, "orders", time.Minute)
	f.interrupt()
	if got := w.outcome(); got != interrupted {
		t.Errorf("outcome %d", got)
	}
	late := newWaiter()
	if _, _, ok := f.register(&late, before); ok || len(f.waiting) > 0 {
		t.Error("registered with an epoch that is over")
	}
}

func TestExpiryIsOfEachWaiter(t *testing.T) {
	t.Parallel()
	f := newInflight()
	defer f.close()
	late, _ := f.wait(t, "orders", time.Minute)
	second, _ := f.wait(t, "orders", 40*time.Millisecond)
	first, _ := f.wait(t, "orders", 10*time.Millisecond)
	for _, w := range []*waiter{first, second} {
		got := <-w.answer
		if got.reason.outcome != unanswered || !errors.Is(got.reason.err, context.DeadlineExceeded) || time.Now().Before(w.limit) {
			t.Errorf("%+v, %v before the limit", got, time.Until(w.limit))
		}
	}
	if got := late.outcome(); got != pending {
		t.Errorf("outcome %d", got)
	}
	third, _ := f.wait(t, "orders", 10*time.Millisecond)
	<-third.answer
}

// The server has refused the latest of those that wait.
func TestViolationIsForTheLatestOfItsSubject(t *testing.T) {
	t.Parallel()
	f := newInflight()
	defer f.close()
	before, _ := f.wait(t, "orders", time.Minute)
	latest, _ := f.wait(t, "orders", time.Minute)
	other, _ := f.wait(t, "orders.created", time.Minute)
	for _, kind := range []string{wire.SubscriptionViolation, wire.PublishViolation} {
		f.refuse(fmt.Errorf(`nats: permissions violation: Permissions Violation for %s"orders"`, kind))
		if kind == wire.SubscriptionViolation && latest.outcome() != pending {
			t.Error("a refused subscription has ended a publish")
		}
	}
	got := <-latest.answer
	if got.reason.outcome != refused || !errors.Is(got.reason.err, fault.ErrPermission) {
		t.Errorf("%+v", got)
	}
	if before.outcome() != pending || other.outcome() != pending {
		t.Error("another one was told")
	}
}

func TestOutcomeOfAnAnswer(t *testing.T) {
	t.Parallel()
	apiError := func(code jetstream.ErrorCode, description string) string {
		return fmt.Sprintf(`{"error":{"code":400,"err_code":%d,"description":%q}}`, code, description)
	}
	for data, want := range map[string]struct {
		outcome outcome
		err     error
	}{
		`{"stream":"ORDERS","seq":7}`:                                {stored, nil},
		`{"stream":"OTHER","seq":7,"domain":"hub","duplicate":true}`: {stored, nil},
		"thank you": {garbled, nil},
		"{}":        {garbled, jetstream.ErrInvalidJSAck},
		"":          {noStream, jetstream.ErrNoStreamResponse},
		apiError(fault.CodeTemporarilyAway, "away"):                    {busy, nil},
		apiError(fault.CodeStreamOffline, "offline"):                   {busy, nil},
		apiError(fault.CodeTooManyRequests, "too many"):                {busy, nil},
		apiError(fault.CodeDuplicateInProcess, "in process"):           {inProcess, nil},
		apiError(fault.CodeStoreFailed, "maximum messages exceeded"):   {refused, fault.ErrStreamFull},
		apiError(fault.CodeStoreFailed, "stream is sealed"):            {refused, nil},
		apiError(fault.CodeHeaderTooLarge, "header too large"):         {refused, fault.ErrMessageTooLarge},
		apiError(jetstream.JSErrCodeJetStreamNotEnabled, "no account"): {refused, fault.ErrJetStreamUnavailable},
	} {
		m := &nats.Msg{Data: []byte(data)}
		if data == "" {
			m.Header = nats.Header{"Status": {"503"}}
		}
		got := answer{msg: m}.result(&asset.Stream{Name: "ORDERS"})
		if got.outcome != want.outcome || (got.err == nil) != (got.outcome == stored) || want.err != nil && !errors.Is(got.err, want.err) {
			t.Errorf("%s: %+v", data, got)
		}
		if got.outcome == stored && got.ack != (wire.PubAck{Stream: got.ack.Stream, Domain: got.ack.Domain, Sequence: 7, Duplicate: strings.Contains(data, "dup")}) {
			t.Errorf("%s: %+v", data, got.ack)
		}
	}
}

func TestOutcomeOfAFailedWrite(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]struct {
		outcome outcome
		err     error
	}{
		nats.ErrMaxPayload:           {notSent, fault.ErrMessageTooLarge},
		nats.ErrConnectionClosed:     {unwritten, fault.ErrConnectionLost}, // another client may come
		nats.ErrConnectionDraining:   {unwritten, fault.ErrConnectionLost},
		nats.ErrBadSubject:           {notSent, errNotSent},
		nats.ErrReconnectBufExceeded: {unwritten, fault.ErrConnectionLost},
		context.DeadlineExceeded:     {unwritten, fault.ErrConnectionLost},
	} {
		got := failedWrite(&nats.Conn{}, &nats.Msg{}, err)
		if got.outcome != want.outcome || !errors.Is(got.err, want.err) || !errors.Is(got.err, err) {
			t.Errorf("%v: %+v", err, got)
		}
	}
}

// asyncFirstTry is an async publish whose first try is under way.
func asyncFirstTry(done Done) *asyncPublish {
	a := &asyncPublish{publication: publication{waiter: newWaiter()}, done: done, ctx: context.Background()}
	a.publisher = New(nil, nil, 1)
	a.publisher.window <- struct{}{}
	a.publisher.gate.Enter()
	a.stream = &asset.Stream{Name: "ORDERS"}
	a.parts.Store(2)
	return a
}

type toldOnce struct {
	sync.WaitGroup
	ack wire.PubAck
	err error
}

func (d *toldOnce) Stored(ack wire.PubAck, err error) {
	d.ack, d.err = ack, err
	d.Done()
}

// The client reads the body until it has returned, even if the answer is there before.
func TestAsyncPublishEndsWithItsLastPart(t *testing.T) {
	t.Parallel()
	ack := answer{msg: &nats.Msg{Data: []byte(`{"stream":"ORDERS","seq":7}`)}}
	for _, writtenFirst := range []bool{true, false} {
		done := &toldOnce{}
		done.Add(1)
		a := asyncFirstTry(done)
		publisher := a.publisher
		parts := []func(){func() { a.endParts(1) }, func() { a.answered(ack) }}
		if !writtenFirst {
			parts[0], parts[1] = parts[1], parts[0]
		}
		parts[0]()
		if len(publisher.window) != 1 || publisher.completions.Len() != 0 {
			t.Fatal("it has ended with its first part")
		}
		parts[1]()
		done.Wait()
		if done.err != nil || done.ack != (wire.PubAck{Stream: "ORDERS", Sequence: 7}) || len(publisher.window) != 0 {
			t.Errorf("%+v, %v", done.ack, done.err)
		}
		<-publisher.Shutdown()
	}
}

// A message that the client has not sent has no answer, whatever has come.
func TestFailedWriteIsMoreCertainThanAnAnswer(t *testing.T) {
	t.Parallel()
	done := &toldOnce{}
	done.Add(1)
	a := asyncFirstTry(done)
	a.answered(interruption)
	a.written = failedWrite(nil, nil, nats.ErrBadSubject)
	publisher := a.publisher
	a.endParts(1)
	done.Wait()
	if !errors.Is(done.err, errNotSent) || errors.Is(done.err, fault.ErrPublishUnknown) {
		t.Error(done.err)
	}
	<-publisher.Shutdown()
}
