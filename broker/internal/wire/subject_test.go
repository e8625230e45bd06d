package wire_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"go-micro-jetstream/broker/internal/fault"
	"go-micro-jetstream/broker/internal/wire"
)

func TestCoversAndOverlaps(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, topic string
		covers         bool
		overlaps       bool
	}{
		{"orders", "orders", true, true},
		{"orders", "users", false, false},
		{"orders", "orders.created", false, false},
		{"orders.created", "orders", false, false},
		{"orders.>", "orders", false, false},
		{"orders.>", "orders.created", true, true},
		{"orders.>", "orders.eu.created", true, true},
		{"orders.>", "orders.*", true, true},
		{"orders.>", "orders.>", true, true},
		{"orders.*", "orders.created", true, true},
		{"orders.*", "orders.eu.created", false, false},
		{"orders.*", "orders.*", true, true},
		{"orders.*", "orders.>", false, true},
		{"orders.created", "orders.*", false, true},
		{"orders.created", "orders.>", false, true},
		{"orders.*.created", "orders.eu.*", false, true},
		{"orders.*.created", "orders.eu.created", true, true},
		{"orders.*.created", "orders.eu.paid", false, false},
		{"orders.*.*", "orders.*", false, false},
		{"orders.*.>", "orders.*", false, false},
		{"orders.*.>", "orders.>", false, true},
		{"*", "orders", true, true},
		{"*", "orders.created", false, false},
		{"*.created", "orders.created", true, true},
		{"*.created", "orders.*", false, true},
		{">", "orders", true, true},
		{">", "orders.>", true, true},
		{">", ">", true, true},
		{"orders.>", ">", false, true},
		{"*.>", ">", false, true},
		{"orders.cr*", "orders.created", false, false},
		{"Orders", "orders", false, false},
	} {
		if got := wire.Covers(c.pattern, c.topic); got != c.covers {
			t.Errorf("Covers(%q, %q) is %v", c.pattern, c.topic, got)
		}
		if got := wire.CoversAny([]string{"x", c.pattern}, c.topic); got != c.covers {
			t.Errorf("CoversAny with %q for %q is %v", c.pattern, c.topic, got)
		}
		if got := wire.Overlaps(c.pattern, c.topic); got != c.overlaps {
			t.Errorf("Overlaps(%q, %q) is %v", c.pattern, c.topic, got)
		}
		if got := wire.Overlaps(c.topic, c.pattern); got != c.overlaps {
			t.Errorf("Overlaps(%q, %q) is %v", c.topic, c.pattern, got)
		}
		// The server must agree.
		if got := server.SubjectsCollide(c.pattern, c.topic); got != c.overlaps {
			t.Errorf("the server says that the collision of %q and %q is %v", c.pattern, c.topic, got)
		}
	}
}

func TestChecksOfAPublishDoNotAllocate(t *testing.T) {
	patterns := []string{"users.>", "orders.*.paid", "orders", "orders.>"}
	if n := testing.AllocsPerRun(100, func() {
		if !wire.CoversAny(patterns, "orders.eu.created") || wire.CheckPublishTopic("orders.eu.created") != nil {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTopicErrorsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	const (
		blank    = "it contains white space or a control character: use dots between tokens, and letters, digits, - and _ within them"
		empty    = "it has an empty token: no dot may lead, trail or follow another"
		own      = "a wildcard must be a token of its own"
		reserved = "names beginning with $ or _INBOX belong to NATS itself"
		first    = "the first token names the stream and cannot be a wildcard"
		publish  = "wildcards work in Subscribe only"
	)
	for _, tt := range []struct{ topic, publish, subscribe string }{
		{"orders", "", ""},
		{"orders.eu.created", "", ""},
		{"orders/eu", "", ""},
		{"größe.ß", "", ""},
		{"_INBOXES", "", ""},
		{"orders.$x", "", ""},
		{strings.Repeat("x", wire.MaxName), "", ""},
		{strings.Repeat("x", wire.MaxName+1), "it has 256 bytes, at most 255 are allowed", "it has 256 bytes, at most 255 are allowed"},
		{"", "it is empty", "it is empty"},
		{"a\xff", "it is not valid UTF-8", "it is not valid UTF-8"},
		{"$JS.API", reserved, reserved},
		{"_INBOX", reserved, reserved},
		{"_INBOX.x", reserved, reserved},
		{".a", empty, empty},
		{"a.", empty, empty},
		{"a..b", empty, empty},
		{"a b", blank, blank},
		{"a.b\t", blank, blank},
		{"a\x00", blank, blank},
		{"a\x7f", blank, blank},
		{"a.\u2028", blank, blank},
		{"a.\u0085", blank, blank},
		{"orders.*", publish, ""},
		{"orders.*.paid", publish, ""},
		{"orders.>", publish, ""},
		{"orders.>.paid", publish, "> must be the last token"},
		{"orders.cr*", own, own},
		{"a.**", own, own},
		{"*", publish, first},
		{"*.a", publish, first},
		{">", publish, first},
		{">.a", publish, first},
		// The first fault from the left is reported.
		{"a..b c", empty, empty},
		{"a b..c", blank, blank},
	} {
		for why, err := range map[string]error{tt.publish: wire.CheckPublishTopic(tt.topic), tt.subscribe: wire.CheckSubscribeTopic(tt.topic)} {
			if tt.publish == tt.subscribe {
				err = errors.Join(wire.CheckPublishTopic(tt.topic), wire.CheckSubscribeTopic(tt.topic))
			}
			switch {
			case why == "" && err != nil:
				t.Errorf("%q: %v", tt.topic, err)
			case why != "" && (!errors.Is(err, fault.ErrInvalidTopic) || !strings.HasSuffix(err.Error(), ": "+why)):
				t.Errorf("%q: %v, want %s", tt.topic, err, why)
			}
		}
	}
}

func TestQueueErrorsSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for queue, why := range map[string]string{
		"q": "", "order-processor_2": "", "größe": "", strings.Repeat("x", wire.MaxName): "",
		"":                                  "the name is empty",
		"a.b":                               "the name contains '.'",
		"a*":                                "the name contains '*'",
		"a>":                                "the name contains '>'",
		"a/b":                               "the name contains '/'",
		`a\b`:                               `the name contains '\\'`,
		"a b":                               "the name contains ' '",
		"a\x00":                             `the name contains '\x00'`,
		"a\u200b":                           `the name contains '\u200b'`,
		"\xff":                              "the name is not valid UTF-8",
		strings.Repeat("x", wire.MaxName+1): "the name has 256 bytes, at most 255 are allowed",
	} {
		err := wire.CheckQueue(queue)
		switch {
		case why == "" && err != nil:
			t.Errorf("%q: %v", queue, err)
		case why != "" && (!errors.Is(err, fault.ErrInvalidQueue) || !strings.HasSuffix(err.Error(), why+"; use letters, digits, - and _")):
			t.Errorf("%q: %v, want %s", queue, err, why)
		}
	}
}

func TestFirstTokenAndShorten(t *testing.T) {
	t.Parallel()
	for topic, want := range map[string]string{"orders": "orders", "orders.eu.paid": "orders", "": ""} {
		if got := wire.FirstToken(topic); got != want {
			t.Errorf("%q: %q", topic, got)
		}
	}
	long := strings.Repeat("x", 81)
	for name, want := range map[string]string{"short": "short", long[:80]: long[:80], long: long[:80] + "..."} {
		if got := wire.Shorten(name); got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
}

func TestAddressesAreShownWithoutCredentials(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{ //nolint:gosec // nobody's credentials
		"nats://user:secret@host:4222":   "nats://host:4222",
		"nats://token@host":              "nats://host",
		"tls://host:4222":                "tls://host:4222",
		"user:secret@host":               "host",
		"host:4222":                      "host:4222",
		"nats://user:se@cr@et@host:4222": "nats://host:4222",
		"nats://us er:%zz@host":          "nats://host",
		"":                               "",
	} {
		if got := wire.WithoutCredentials(addr); got != want {
			t.Errorf("%q: %q", addr, got)
		}
	}
	if got := wire.Redacted([]string{"nats://a:b@one", "two"}); got != "nats://one, two" {
		t.Error(got)
	}
}

// FuzzTopic holds the check of topics against the server's.
func FuzzTopic(f *testing.F) {
	for _, seed := range []string{"", "orders", "orders.created", "a..b", ".a", "a.", "a b", "a.*", "a.>", "a.>.b", "*.a", "a*", "$JS.API", "_INBOX.x", "ü.ö", "a\u2028b", "a\x00", strings.Repeat("x", 256), "a.b/c", "\ufeffx"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		publishErr, subscribeErr := wire.CheckPublishTopic(topic), wire.CheckSubscribeTopic(topic)
		for _, err := range []error{publishErr, subscribeErr} {
			if err != nil && (!errors.Is(err, fault.ErrInvalidTopic) || len(err.Error()) > 600) {
				t.Fatalf("%q: %v", topic, err)
			}
		}
		if publishErr == nil && subscribeErr != nil {
			t.Fatalf("%q can be published to, but not subscribed to: %v", topic, subscribeErr)
		}
		if publishErr == nil && (!server.IsValidLiteralSubject(topic) || strings.ContainsAny(topic, " \t\r\n\x00")) {
			t.Fatalf("%q is not a subject", topic)
		}
		if subscribeErr != nil {
			return
		}
		if !server.IsValidSubject(topic) {
			t.Fatalf("%q is not a subject pattern", topic)
		}
		token := wire.FirstToken(topic)
		if !wire.CoversAny([]string{token, token + ".>"}, topic) {
			t.Fatalf("the stream of %q would not capture it", topic)
		}
		if !wire.Covers(topic, topic) || !wire.Overlaps(topic, topic) {
			t.Fatalf("%q does not cover itself", topic)
		}
	})
}

// FuzzQueue holds the check of queue names against the server's rule.
func FuzzQueue(f *testing.F) {
	for _, seed := range []string{"", "q", "order-processor", "a.b", "a b", "a*", "a>", `a\b`, "a/b", "ü", "\u2028", "a\x00b", "\xff", strings.Repeat("x", 256)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, queue string) {
		if err := wire.CheckQueue(queue); err != nil {
			if !errors.Is(err, fault.ErrInvalidQueue) {
				t.Fatalf("%q: %v", queue, err)
			}
			return
		}
		if queue == "" || len(queue) > wire.MaxName || strings.ContainsAny(queue, " \t\r\n\f.*>\\/") {
			t.Fatalf("the server does not accept %q", queue)
		}
	})
}
