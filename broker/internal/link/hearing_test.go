package link_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/internal/natstest"
)

// A user who may not ask for INFO gets no answer to that. The inbox for answers is well,
// and stays as it is.
func TestInboxStaysWhereNobodyMayAskWhetherItHears(t *testing.T) {
	t.Parallel()
	s := startServer(t, limited("$JS.API.INFO", "none"), func(o *server.Options) { o.MaxSubs = 2 })
	c, r := dialled(t, s, nats.UserInfo("limited", "pw"))
	answers := make(chan *nats.Msg, 10)
	if err := c.Answers("_INBOX.answers.", func(m *nats.Msg) { answers <- m }); err != nil {
		t.Fatal(err)
	}
	_, err := c.Listen(func(nc *nats.Conn) (*nats.Subscription, error) { return nc.SubscribeSync("orders") })
	natstest.WantError(t, err, fault.ErrSubscriptionLimit)
	timer := time.NewTimer(2 * link.LookUpTimeout) // as long as it takes to look, and again
	defer timer.Stop()
	for {
		select {
		case event := <-r.seen:
			if event == "lost" {
				t.Error("the inbox was made again, and lost the answers on their way")
			}
			continue
		case <-timer.C:
		}
		break
	}
	if err := c.NATS().Publish("_INBOX.answers.1", nil); err != nil {
		t.Fatal(err)
	}
	natstest.Receive(t, answers)
}
