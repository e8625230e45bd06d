package delivery_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/delivery"
)

// record is that of the n-th delivery of message 7 of the stream.
func record(t *testing.T, n string) *delivery.Record {
	r := &delivery.Record{}
	r.Init(t.Context(), &nats.Msg{Subject: "orders", Reply: "$JS.ACK.ORDERS.q." + n + ".7.9.1000.4", Header: nats.Header{"Nats-Msg-Id": {"m"}}}, time.Now())
	return r
}

func TestDeliveryIsSettledOnce(t *testing.T) {
	t.Parallel()
	for _, want := range []delivery.Result{delivery.Ack, delivery.Nak, delivery.Term} {
		r := record(t, "1")
		if got, _ := r.Settlement(); got != delivery.None || r.Settled() {
			t.Errorf("settled with %s before anybody has", got)
		}
		if !r.Claim(want, time.Hour) || r.Claim(delivery.Ack, 0) {
			t.Error("it is not settled exactly once")
		}
		if got, delay := r.Settlement(); got != want || delay != time.Hour || !r.Settled() {
			t.Errorf("settled with %s after %v, want %s", got, delay, want)
		}
		if r.Reopen(); r.Settled() || !r.Claim(delivery.Term, -1) {
			t.Error("it cannot be settled again")
		}
		if _, delay := r.Settlement(); delay != 0 {
			t.Errorf("delay %v", delay)
		}
	}
}

// The server does not count what is handled again here, but what it delivers meanwhile.
func TestDeliveriesAreCounted(t *testing.T) {
	t.Parallel()
	r, again := record(t, "2"), &delivery.Record{}
	again.InitAgain(t.Context(), r)
	if again.Deliveries() != 3 || again.Served() != 2 || again.Meta.StreamSequence != 7 {
		t.Errorf("delivery %d, of the server %d, of message %d", again.Deliveries(), again.Served(), again.Meta.StreamSequence)
	}
	again.Skip(5)
	again.Skip(4)
	if again.Deliveries() != 5 || again.Served() != 5 {
		t.Errorf("delivery %d, of the server %d", again.Deliveries(), again.Served())
	}
}

// While something is done first, nobody else can settle the delivery, and it is not
// settled.
func TestDeliveryThatIsBeingSettled(t *testing.T) {
	t.Parallel()
	r := record(t, "1")
	if !r.ClaimFirst() || r.ClaimFirst() || r.Claim(delivery.Ack, 0) || !r.Taken() {
		t.Error("it is not claimed exactly once")
	}
	if got, delay := r.Settlement(); got != delivery.None || delay != 0 || r.Settled() {
		t.Errorf("settled with %s after %v", got, delay)
	}
	r.Complete(delivery.Term)
	if got, _ := r.Settlement(); got != delivery.Term || !r.Settled() {
		t.Errorf("settled with %s", got)
	}
}

func TestMessageThatIsNoDelivery(t *testing.T) {
	t.Parallel()
	r := &delivery.Record{}
	r.Init(t.Context(), &nats.Msg{Reply: "elsewhere"}, time.Now())
	if r.Deliveries() != 1 || r.Place().Sequence != 0 {
		t.Errorf("delivery %d, at %v", r.Deliveries(), r.Place())
	}
}

func TestKeyIsAskedForAgain(t *testing.T) {
	t.Parallel()
	r, cause := record(t, "1"), errors.New("no key")
	if r.Keyless() || r.KeyErr() != nil {
		t.Error("it has no key at first")
	}
	if r.Unkey(cause); !r.Keyless() || !errors.Is(r.KeyErr(), cause) {
		t.Errorf("why it has no key: %v", r.KeyErr())
	}
	if r.AskAgain(); r.Keyless() {
		t.Error("it is not asked for again")
	}
}

// When a message begins anew, the server was last told to wait at the same time as
// before.
func TestRenewedDeliveryKeepsItsDeadline(t *testing.T) {
	t.Parallel()
	r := record(t, "1")
	zero := r.Received
	r.Extended = time.Minute
	r.Renew(zero.Add(time.Hour))
	if !r.Received.Equal(zero.Add(time.Hour)) || !r.Received.Add(r.Extended).Equal(zero.Add(time.Minute)) {
		t.Errorf("received %v later, told %v after that", r.Received.Sub(zero), r.Extended)
	}
}

func TestLogNamesTheMessage(t *testing.T) {
	t.Parallel()
	want := []any{"subject", "orders", "sequence", uint64(7), "deliveries", uint64(2), "message_id", "m"}
	if got := record(t, "2").Attrs(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
