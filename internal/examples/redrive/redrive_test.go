package redrive_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/examples/proc"
	"go-micro-jetstream/internal/natstest"
)

var binary string

func TestMain(m *testing.M) { os.Exit(proc.Main(m, "redrive", &binary)) }

func TestListShowRedriveDrop(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	_, js := natstest.Connect(t, s.ClientURL())
	b := jsbroker.NewBroker(broker.Addrs(s.ClientURL()), broker.Logger(natstest.Quiet()), jsbroker.WithDeadLetter("graves"))
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Disconnect() })
	handled := make(chan string, 10)
	if _, err := b.Subscribe("orders.>", func(e broker.Event) error {
		if e.Message().Header["Micro-Dead-Letter-Redriven"] == "" {
			return jsbroker.Discard(errors.New("no " + string(e.Message().Body)))
		}
		handled <- string(e.Message().Body)
		return nil
	}, broker.Queue("q")); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"stock", "price", "\x1b[2J"} {
		if err := b.Publish("orders.created", &broker.Message{Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	natstest.Eventually(t, "the letters are there", func() bool { return natstest.StreamInfo(t, js, "ORDERS").State.Msgs == 0 })

	command := func(want int, args ...string) string {
		t.Helper()
		code, out, stderr := proc.Start(t, binary, []string{"NATS_URL=" + s.ClientURL()}, args...).Wait()
		if code != want {
			t.Fatalf("%v: exit %d\n%s%s", args, code, out, stderr)
		}
		return out + stderr
	}
	contains := func(out string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(out, part) {
				t.Errorf("no %q in\n%s", part, out)
			}
		}
	}
	contains(command(0, "list", "graves"), `"orders.created"  queue q  deliveries 1  redriven 0  "no stock"`, `"no price"`)
	contains(command(0, "show", "graves", "3"), "  Micro-Dead-Letter-Stream: \"ORDERS\"\n", `4 bytes: "\x1b[2J"`)
	contains(command(0, "-dry-run", "-reason", "price", "redrive", "graves"), "dry run: 1 redriven\n")
	contains(command(0, "-reason", "price", "redrive", "graves"), "1 redriven\n")
	if body := natstest.Receive(t, handled); body != "price" {
		t.Errorf("handled %s", body)
	}
	contains(command(1, "drop", "graves"), "say which")
	contains(command(0, "-dry-run", "drop", "graves", "1"), "dry run: 1 dropped\n")
	contains(command(0, "drop", "graves", "1", "2"), "1 dropped\n") // 2 is redriven
	contains(command(0, "-limit", "5", "redrive", "graves"), "1 redriven\n")
	natstest.Receive(t, handled)
	if n := natstest.StreamInfo(t, js, "GRAVES").State.Msgs; n != 0 {
		t.Errorf("%d letters are left", n)
	}
	contains(command(1, "exhume", "graves"), "usage:")
	contains(command(1, "list", "nowhere"), "no stream")
}
