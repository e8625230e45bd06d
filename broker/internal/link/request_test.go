package link_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/link"
)

func TestPermissionViolationEndsTheRequestAtOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t, limited("$JS.API.STREAM.INFO.FORBIDDEN", "none"))
	c, r := dialled(t, s, nats.UserInfo("limited", "pw"))
	r.wantEvents(t, "up at")
	other := make(chan error, 1)
	began, goOn := make(chan struct{}), make(chan struct{})
	go func() {
		other <- c.Do(testContext(t), "STREAM.INFO.OTHER", func(ctx context.Context) error {
			close(began)
			select {
			case <-goOn:
			case <-ctx.Done():
			}
			return context.Cause(ctx)
		})
	}()
	receive(t, began)
	for name, run := range map[string]func(context.Context, string, func(context.Context) error) error{"Do": c.Do, "Ask": c.Ask} {
		start := time.Now()
		err := run(testContext(t), "STREAM.INFO.FORBIDDEN", func(ctx context.Context) error {
			_, err := c.JetStream().Stream(ctx, "FORBIDDEN")
			return err
		})
		if !errors.Is(err, fault.ErrPermission) || !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), "FORBIDDEN") {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(start); took >= link.APITimeout {
			t.Errorf("%s took %v", name, took)
		}
		r.wantEvents(t, "refused")
	}
	close(goOn)
	if err := receive(t, other); err != nil {
		t.Errorf("the violation is not about this request: %v", err)
	}
	if err := c.Usable(); err != nil {
		t.Errorf("the violation is not about the inbox: %v", err)
	}
}

func TestRefusedInbox(t *testing.T) {
	t.Parallel()
	s := startServer(t, limited("none", "none"))
	c, r := dialled(t, s, nats.UserInfo("limited", "pw"))
	r.wantEvents(t, "up at")
	underWay, began := make(chan error, 1), make(chan struct{})
	go func() {
		underWay <- c.Do(testContext(t), "STREAM.INFO.ANY", func(ctx context.Context) error {
			close(began)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	receive(t, began)
	unheard := func(err error) {
		t.Helper()
		if !errors.Is(err, fault.ErrPermission) || !strings.Contains(err.Error(), "_INBOX.") {
			t.Error(err)
		}
	}

	start := time.Now()
	reload(t, s, limited("none", "_INBOX.>"))
	r.wantEvents(t, "lost, deaf", "refused, deaf")
	unheard(receive(t, underWay))
	if took := time.Since(start); took >= link.APITimeout {
		t.Errorf("the request under way ended after %v", took)
	}
	if !c.Up() {
		t.Error("the connection is down")
	}
	unheard(c.Usable())
	unheard(c.Deaf())
	unheard(c.Do(testContext(t), "INFO", func(context.Context) error {
		t.Error("a request is made whose answer cannot arrive")
		return nil
	}))

	reload(t, s, limited("none", "none")) // before the client asks again, a second later
	r.wantEvents(t, "lost", "down", "lost", "up at")
	if err := c.Usable(); err != nil {
		t.Error(err)
	}
	if err := c.Do(testContext(t), "INFO", func(ctx context.Context) error {
		_, err := c.JetStream().AccountInfo(ctx)
		return err
	}); err != nil {
		t.Error(err)
	}
}

// A user who wants no reconnects gets none for the sake of the inbox.
func TestRefusedInboxWithoutReconnects(t *testing.T) {
	t.Parallel()
	s := startServer(t, limited("none", "none"))
	c, r := dialled(t, s, nats.UserInfo("limited", "pw"), nats.NoReconnect())
	r.wantEvents(t, "up at")
	reload(t, s, limited("none", "_INBOX.>"))
	r.wantEvents(t, "lost, deaf", "refused, deaf")
	time.Sleep(1200 * time.Millisecond) // longer than the first pause
	if !c.Up() || c.Deaf() == nil {
		t.Error("the connection was given up")
	}
	r.wantNoEvents(t)
}

// A question that is not answered is asked again.
func TestAskAsksAgain(t *testing.T) {
	t.Parallel()
	c, _ := dialled(t, startServer(t))
	asked := 0
	if err := c.Ask(testContext(t), "STREAM.INFO.ANY", func(ctx context.Context) error {
		if asked++; asked == 2 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}); err != nil || asked != 2 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	other := errors.New("another")
	if err := c.Ask(testContext(t), "STREAM.INFO.ANY", func(context.Context) error { return other }); !errors.Is(err, other) {
		t.Error(err)
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := link.New(link.Config{Servers: []string{"nats://127.0.0.1:1"}})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- c.Await(ctx) }()
	cancel()
	if err := receive(t, result); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
