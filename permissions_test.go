package module_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// permitted returns what a service may publish to by docs/operations.md.
func permitted(t *testing.T) []string {
	t.Helper()
	for _, b := range blocksOf(t, "text") {
		if !strings.HasPrefix(b.text, "permissions:") {
			continue
		}
		file := filepath.Join(t.TempDir(), "nats.conf")
		if err := os.WriteFile(file, []byte("authorization: { users: [ { user: shop, password: x,\n"+b.text+"\n} ] }\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		o, err := server.ProcessConfigFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return o.Users[0].Permissions.Publish.Allow
	}
	t.Fatal("no page has permissions")
	return nil
}

// alsoFor returns what the table in docs/operations.md adds for an option or function. What
// follows a semicolon is for special cases.
func alsoFor(t *testing.T, what string) []string {
	t.Helper()
	row := regexp.MustCompile("(?m)^\\| `" + what + "`.*\\| publish to (.*) \\|$").FindStringSubmatch(read(t, "docs/operations.md"))
	if row == nil {
		t.Fatalf("no row for %s", what)
	}
	main, _, _ := strings.Cut(row[1], ";")
	var subjects []string
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(main, -1) {
		subjects = append(subjects, m[1])
	}
	return subjects
}

// shop starts a server with a user who has these permissions, beside one who may do
// everything, and connects both.
func shop(t *testing.T, subjects ...string) (limited, admin broker.Broker) {
	t.Helper()
	s := natstest.Start(t, natstest.Limited(server.Permissions{
		Publish:   &server.SubjectPermission{Allow: subjects},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	}))
	connect := func(user string) broker.Broker {
		b := jsbroker.NewBroker(broker.Addrs(natstest.URL(s, user)), broker.Logger(natstest.NewLog()))
		if err := b.Connect(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Disconnect() })
		return b
	}
	return connect("limited:pw"), connect("admin:admin")
}

// The rows for what is delivered later are enough, and no more than that.
func TestThePermissionsForWhatIsDeliveredLater(t *testing.T) {
	base := permitted(t)
	deliver, cancel := alsoFor(t, "DeliverAt"), alsoFor(t, "CancelDelivery")
	later := func(b broker.Broker, id string, d time.Duration) error {
		return b.Publish("orders.created", &broker.Message{Body: []byte(id)}, jsbroker.MessageID(id), jsbroker.DeliverAfter(d))
	}
	ctx := natstest.Context(t)
	t.Run("enough", func(t *testing.T) {
		both, _ := shop(t, slices.Concat(base, deliver, cancel)...)
		got := make(chan string, 10)
		_, err := both.Subscribe("orders.created", func(e broker.Event) error {
			got <- string(e.Message().Body)
			return nil
		}, broker.Queue("q"))
		must(t, err)
		must(t, later(both, "soon", time.Second))
		must(t, later(both, "never", time.Hour))
		if body := natstest.Receive(t, got); body != "soon" {
			t.Errorf("got %q", body)
		}
	})
	t.Run("enough to cancel", func(t *testing.T) {
		canceller, admin := shop(t, slices.Concat(base, cancel)...)
		must(t, later(admin, "a", time.Hour))
		must(t, jsbroker.CancelDelivery(ctx, canceller, "orders.created", "a"))
		for _, id := range []string{"a", "never published"} {
			if err := jsbroker.CancelDelivery(ctx, canceller, "orders.created", id); !errors.Is(err, jsbroker.ErrNotScheduled) {
				t.Errorf("%s: %v", id, err)
			}
		}
	})
	lacks := func(subject string, all []string, try func(limited, admin broker.Broker) error) {
		t.Run("without "+subject, func(t *testing.T) {
			err := try(shop(t, slices.DeleteFunc(slices.Concat(base, all), func(s string) bool { return s == subject })...))
			if !errors.Is(err, jsbroker.ErrPermission) || !strings.Contains(err.Error(), strings.TrimSuffix(subject, ">")) {
				t.Errorf("got %v", err)
			}
		})
	}
	for _, subject := range deliver {
		lacks(subject, deliver, func(limited, _ broker.Broker) error { return later(limited, "a", time.Hour) })
	}
	for _, subject := range cancel {
		lacks(subject, cancel, func(limited, admin broker.Broker) error {
			must(t, later(admin, "a", time.Hour))
			return jsbroker.CancelDelivery(ctx, limited, "orders.created", "a")
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
