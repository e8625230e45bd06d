package link_test

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
)

// Only what the server answers shows that JetStream is back. A request that ends with an
// error of its own says nothing.
func TestOnlyAnswersOfTheServerShowThatItIsBack(t *testing.T) {
	t.Parallel()
	c, _ := dialled(t, startServer(t))
	do := func(request func(context.Context) error) (number uint64) {
		t.Helper()
		_ = c.Do(testContext(t), "STREAM.INFO.ORDERS", request)
		_, number = c.State()
		return number
	}
	lost := do(func(ctx context.Context) error {
		_, err := c.NATS().RequestWithContext(ctx, "nobody.listens", nil)
		if !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("got %v", err)
		}
		return err
	})
	if now := do(func(context.Context) error { return errors.New("of its own") }); now != lost {
		t.Errorf("an error of the request counts as an answer: %d, %d", lost, now)
	}
	if now := do(func(ctx context.Context) error { _, err := c.JetStream().Stream(ctx, "ORDERS"); return err }); now == lost {
		t.Error("the answer of the server, that there is no such stream, does not count")
	}
}
