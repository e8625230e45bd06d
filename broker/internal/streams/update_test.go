package streams_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/internal/natstest"
)

// template are the rules of a service with that template.
func template(cfg jetstream.StreamConfig) *asset.Rules { return &asset.Rules{StreamTemplate: &cfg} }

// use is what one more service does whose code has these rules: it looks for the
// topic's stream, as Subscribe does.
func (b *bench) use(t *testing.T, rules *asset.Rules, topic string) *asset.Stream {
	t.Helper()
	s, err := b.another(t).ForConsumer(b.ctx, rules, topic)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (b *bench) config(t *testing.T, name string) jetstream.StreamConfig {
	t.Helper()
	return natstest.StreamInfo(t, b.js, name).Config
}

// edit is what an operator does.
func (b *bench) edit(t *testing.T, name string, change func(*jetstream.StreamConfig)) {
	t.Helper()
	sc := b.config(t, name)
	change(&sc)
	natstest.UpdateStream(t, b.js, sc)
}

// wantLines checks that the log has exactly these lines about streams since the last
// look, apart from those about their making.
func (b *bench) wantLines(t *testing.T, want ...string) {
	t.Helper()
	var rest []string
	for _, line := range b.log.Take("stream") {
		if strings.Contains(line, "created stream") {
			continue
		}
		if i := slices.IndexFunc(want, func(w string) bool { return strings.Contains(line, w) }); i >= 0 {
			want = slices.Delete(slices.Clone(want), i, i+1)
		} else {
			rest = append(rest, line)
		}
	}
	if len(rest) > 0 || len(want) > 0 {
		t.Errorf("not logged: %q; logged: %q", want, rest)
	}
}

func TestStreamFollowsItsTemplate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const hour = time.Hour
	old := jetstream.StreamConfig{MaxAge: hour, MaxMsgs: 5, Metadata: map[string]string{"team": "a"}}
	b.use(t, template(old), "orders")
	b.use(t, template(old), "orders")
	b.wantLines(t)

	now := jetstream.StreamConfig{MaxAge: 2 * hour, Duplicates: time.Minute, Discard: jetstream.DiscardNew}
	s := b.use(t, template(now), "orders")
	sc := b.config(t, "ORDERS")
	if sc.MaxAge != 2*hour || sc.MaxMsgs != -1 || sc.Duplicates != time.Minute || sc.Discard != jetstream.DiscardNew || s.Duplicates != time.Minute {
		t.Errorf("%+v", sc)
	}
	if sc.Metadata[asset.OwnerKey] == "" || sc.Metadata["team"] != "a" {
		t.Errorf("metadata %v", sc.Metadata)
	}
	b.wantLines(t, "stream ORDERS follows its configuration: MaxMsgs is now unlimited, was 5; Discard is now DiscardNew, was DiscardOld; MaxAge is now 2h0m0s, was 1h0m0s; Duplicates is now 1m0s, was 2m0s")
	b.use(t, template(now), "orders")
	b.use(t, new(asset.Rules), "orders") // a service that leaves it to the others
	b.wantLines(t)
	if got := b.config(t, "ORDERS"); got.MaxAge != 2*hour {
		t.Errorf("%+v", got)
	}
}

// The window of duplicates follows MaxAge by itself.
func TestShorterMaxAgeTakesTheWindowWithIt(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.use(t, template(jetstream.StreamConfig{}), "orders")
	if s := b.use(t, template(jetstream.StreamConfig{MaxAge: time.Minute}), "orders"); s.Duplicates != time.Minute {
		t.Errorf("%+v", s)
	}
	b.wantLines(t, "MaxAge is now 1m0s, was unlimited; Duplicates is now 1m0s, was 2m0s")
}

func TestStreamKeepsWhatAnOperatorHasChanged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.use(t, template(jetstream.StreamConfig{MaxAge: time.Hour}), "orders")
	b.edit(t, "ORDERS", func(sc *jetstream.StreamConfig) { sc.MaxAge, sc.MaxMsgSize = 5*time.Hour, 1000 })
	b.use(t, template(jetstream.StreamConfig{MaxAge: 2 * time.Hour, MaxMsgs: 7}), "orders")
	if sc := b.config(t, "ORDERS"); sc.MaxAge != 5*time.Hour || sc.MaxMsgSize != 1000 || sc.MaxMsgs != 7 {
		t.Errorf("%+v", sc)
	}
	b.wantLines(t, "stream ORDERS was changed by somebody else and is used as it is: MaxAge is 5h0m0s, not 2h0m0s", "MaxMsgs is now 7, was unlimited")
	// When both agree again, the code decides again.
	b.use(t, template(jetstream.StreamConfig{MaxAge: 5 * time.Hour, MaxMsgs: 7}), "orders")
	b.use(t, template(jetstream.StreamConfig{MaxAge: 6 * time.Hour, MaxMsgs: 7}), "orders")
	b.wantLines(t, "follows its configuration: MaxAge is now 6h0m0s, was 5h0m0s")
}

func TestWhatTheServerCannotChangeIsAWarningWithTheRecipe(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.use(t, new(asset.Rules), "orders") // a WorkQueue on disk
	rules := template(jetstream.StreamConfig{Retention: jetstream.LimitsPolicy, Storage: jetstream.MemoryStorage, MaxMsgs: 7})
	b.use(t, rules, "orders")
	if sc := b.config(t, "ORDERS"); sc.Retention != jetstream.WorkQueuePolicy || sc.Storage != jetstream.FileStorage || sc.MaxMsgs != 7 {
		t.Errorf("%+v", sc)
	}
	b.wantLines(t, "the server cannot change this: Retention is WorkQueue, not Limits; Storage is File, not Memory; name another stream in WithStreamConfig, or", "MaxMsgs is now 7")
	b.use(t, template(jetstream.StreamConfig{Retention: jetstream.InterestPolicy}), "users")
	b.use(t, template(jetstream.StreamConfig{}), "users")
	b.wantLines(t, "stream USERS follows its configuration: Retention is now Limits, was Interest")
}

func TestSubjectsOfATemplateAreAdded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	shop := func(subjects ...string) *asset.Rules {
		return template(jetstream.StreamConfig{Name: "SHOP", Subjects: subjects})
	}
	b.use(t, shop("orders.created", "users"), "orders.created")
	b.use(t, shop("orders.>", "users", "carts"), "carts") // what was there is covered by the new one
	if got := b.config(t, "SHOP").Subjects; !slices.Equal(got, []string{"users", "orders.>", "carts"}) {
		t.Errorf("%v", got)
	}
	b.wantLines(t, "stream SHOP follows its configuration: Subjects is now [users orders.> carts], was [orders.created users]")
	// Another service has a part in the stream.
	b.use(t, shop("bills"), "bills")
	b.use(t, shop("orders.>", "users", "carts"), "orders.*")
	b.wantLines(t, "Subjects is now [users orders.> carts bills], was [users orders.> carts]")
	// What an operator takes off stays off.
	b.edit(t, "SHOP", func(sc *jetstream.StreamConfig) { sc.Subjects = []string{"users", "bills"} })
	b.use(t, shop("bills", "users", "carts"), "users")
	b.wantLines(t, "was changed by somebody else and is used as it is: Subjects is [users bills], not [bills users carts]")
	// A stream that captures a part of a wildcard.
	b.edit(t, "SHOP", func(sc *jetstream.StreamConfig) { sc.Subjects = []string{"a.b"} })
	if s := b.use(t, shop("a.*"), "a.*"); !slices.Equal(s.Subjects, []string{"a.*"}) {
		t.Errorf("%v", s.Subjects)
	}
	_, err := b.Stream(b.ctx, 0, template(jetstream.StreamConfig{Name: "SHOP", Subjects: []string{"_INBOX.x", "a.*"}}), "a.c")
	if got := b.config(t, "SHOP").Subjects; err != nil || !slices.Equal(got, []string{"a.*"}) {
		t.Errorf("%v: %v", got, err)
	}
	b.wantLines(t, "Subjects is now [a.*], was [a.b]", "cannot follow its configuration and is used as it is: Subjects is [a.*], not [a.* _INBOX.x]: invalid topic")
}

func TestStreamsOfOthersAreNotChangedAndTheDifferenceIsLoggedOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.makeStream(t, "THEIRS", "orders.>")
	before := b.config(t, "THEIRS")
	rules := template(jetstream.StreamConfig{Retention: jetstream.InterestPolicy, MaxAge: time.Hour, MaxMsgs: -1})
	for _, topic := range []string{"orders.a", "orders.b", "orders.a"} {
		if _, err := b.Stream(b.ctx, 0, rules, topic); err != nil {
			t.Fatal(err)
		}
		if _, err := b.ForConsumer(b.ctx, rules, topic); err != nil {
			t.Fatal(err)
		}
	}
	b.wantLines(t, "stream THEIRS exists and is used as it is: Retention is Limits, not Interest; MaxAge is unlimited, not 1h0m0s")
	// Ours, but not the one that this template makes.
	b.use(t, &asset.Rules{StreamName: func(string) string { return "CARTS_1" }}, "carts")
	b.use(t, rules, "carts")
	b.wantLines(t, "stream CARTS_1 exists and is used as it is: Retention is WorkQueue, not Interest; MaxAge")
	if after := b.config(t, "THEIRS"); after.MaxAge != before.MaxAge || after.Metadata[asset.AskedKey] != "" {
		t.Errorf("%+v", after)
	}
}

// A publication compares a stream when it first uses it, and not again after an
// outage: another version may have changed it meanwhile.
func TestVersionsSideBySideDoNotUndoEachOther(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	old, now := template(jetstream.StreamConfig{MaxAge: time.Hour}), template(jetstream.StreamConfig{MaxAge: 2 * time.Hour})
	s, err := b.Stream(b.ctx, 0, old, "orders")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.another(t).Stream(b.ctx, 0, now, "orders"); err != nil {
		t.Fatal(err)
	}
	b.Doubt(s, "orders")
	if _, err := b.Stream(b.ctx, 0, old, "orders"); err != nil {
		t.Fatal(err)
	}
	if sc := b.config(t, "ORDERS"); sc.MaxAge != 2*time.Hour {
		t.Errorf("%+v", sc)
	}
	b.wantLines(t, "MaxAge is now 2h0m0s, was 1h0m0s")
}

func TestStreamMadeBeforeSettingsWereRemembered(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	natstest.MakeStream(t, b.js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders", "orders.>"}, MaxAge: time.Hour, Metadata: asset.Owned(nil)})
	rules := template(jetstream.StreamConfig{MaxAge: 2 * time.Hour, MaxMsgs: 7})
	b.use(t, rules, "orders")
	b.wantLines(t, "stream ORDERS was made before settings were remembered and is used as it is: MaxAge is 1h0m0s, not 2h0m0s", "MaxMsgs is now 7, was unlimited")
	b.use(t, template(jetstream.StreamConfig{MaxAge: time.Hour, MaxMsgs: 8}), "orders") // from now on it is remembered
	b.use(t, template(jetstream.StreamConfig{MaxAge: 3 * time.Hour, MaxMsgs: 8}), "orders")
	b.wantLines(t, "MaxMsgs is now 8, was 7", "MaxAge is now 3h0m0s, was 1h0m0s")
}

func TestChangeThatTheServerRefusesIsLogged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.use(t, template(jetstream.StreamConfig{}), "orders")
	b.use(t, template(jetstream.StreamConfig{Replicas: 3}), "orders") // of a single server
	b.wantLines(t, "stream ORDERS cannot follow its configuration and is used as it is: Replicas is 1, not 3: ")
}
