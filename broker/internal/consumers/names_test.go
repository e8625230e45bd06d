package consumers

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"go-micro-jetstream/broker/internal/wire"
)

func TestDurableNamesAreReadableLegalAndDistinct(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", wire.MaxName)
	queues := []string{"q", "q-orders", "q-orders_created", "workers", long, strings.Repeat("ü", wire.MaxName/2)}
	topics := []string{
		"orders", "orders.created", "orders_created", "orders.*", "orders.any", "orders.>", "orders.all", "orders.a/b", `orders.a\b`, "orders.a_b",
		"orders-created", "created", strings.Repeat("x.", 127) + "x", strings.Repeat("y", wire.MaxName), strings.Repeat("ü", wire.MaxName/2),
	}
	seen := map[string]string{}
	for _, q := range queues {
		for _, topic := range topics {
			name, what := durableName(q, topic), fmt.Sprintf("%s on %s", q, topic)
			if err := wire.CheckName(name); err != nil {
				t.Errorf("%s: %q: %v", what, name, err)
			}
			if other, ok := seen[name]; ok {
				t.Errorf("%s and %s share the name %q", what, other, name)
			}
			seen[name] = what
			if name != durableName(q, topic) {
				t.Errorf("%s: not the same twice", what)
			}
		}
	}
	// Replicas of all versions must agree on the names.
	for want, in := range map[string][2]string{
		"workers-orders_paid-": {"workers", "orders.paid"},
		"workers-orders_any-":  {"workers", "orders.*"},
		"workers-orders_all-":  {"workers", "orders.>"},
	} {
		name := durableName(in[0], in[1])
		if !strings.HasPrefix(name, want) || len(name) != len(want)+8 {
			t.Errorf("%v: %q", in, name)
		}
	}
	if name := durableName("workers", "orders.paid"); name != "workers-orders_paid-4a5854b8" {
		t.Errorf("the name has changed to %q: replicas of another version would not find it", name)
	}
}

func TestEphemeralNamesAreLegalAndDistinct(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, topic := range []string{"orders", "orders.*", "orders.>", "orders.a/b", strings.Repeat("y", wire.MaxName)} {
		for range 2 {
			name := ephemeralName(topic)
			if err := wire.CheckName(name); err != nil {
				t.Errorf("%s: %q: %v", topic, name, err)
			}
			if seen[name] || !strings.HasPrefix(name, "queueless-") {
				t.Errorf("%s: %q", topic, name)
			}
			seen[name] = true
		}
	}
}

// illegal is what no name of a consumer may contain.
const illegal = " \t\r\n\f.*>\\/"

// FuzzNames checks that every topic and every queue that pass their checks have
// names that the server takes.
func FuzzNames(f *testing.F) {
	for _, topic := range []string{"orders", "orders.created", "a.*", "a.>", "ü.ö", "a.b/c", "a/b.c", `a\b`, "\ufeffx", strings.Repeat("x", 255)} {
		f.Add("q", topic)
	}
	for _, queue := range []string{"order-processor", "ü", "\u2028", "\xff", strings.Repeat("x", 255)} {
		f.Add(queue, "orders.created")
	}
	f.Fuzz(func(t *testing.T, queue, topic string) {
		if wire.CheckSubscribeTopic(topic) != nil || wire.CheckQueue(queue) != nil {
			return
		}
		if name := durableName(queue, topic); name == queue || len(name) > wire.MaxName || !utf8.ValidString(name) || strings.ContainsAny(name, illegal) {
			t.Fatalf("%q on %q: durable name %q", queue, topic, name)
		}
	})
}
