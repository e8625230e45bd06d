package pull

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/consumers"
	"go-micro-jetstream/internal/natstest"
)

// A consumer that does not answer may have been deleted, and serve another replica when it
// is made again: then the pin is in doubt.
func TestRenewalOfAPinThatNobodyAnswers(t *testing.T) {
	t.Parallel()
	c := connect(t)
	cs := &consumers.Consumer{Name: "q", Stream: &asset.Stream{Name: "ORDERS"}, Config: jetstream.ConsumerConfig{
		PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{"active"},
	}}
	p := &Pull{conn: c.conn, mailbox: mailbox{inbox: c.conn.NATS().NewInbox()}}
	refused := make(chan struct{}, 1)
	answers, err := p.ListenRenewals(
		func(string) { t.Error("the pin is said to be unknown") },
		func(string, time.Time) { t.Error("the pin is said to be renewed") },
		func() { refused <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answers.Unsubscribe() }()
	p.Repin("pin")
	r, ok := p.Renewal(cs)
	if !ok {
		t.Fatal("there is nothing to renew")
	}
	if err := p.Send(r); err != nil {
		t.Fatal(err)
	}
	natstest.Receive(t, refused)
}
