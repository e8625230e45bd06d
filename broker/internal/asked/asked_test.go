package asked_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"go-micro-jetstream/broker/internal/asked"
)

// config stands for one of nats.go's.
type config struct {
	Wait    time.Duration   `json:"wait,omitempty"`
	MaxSent int             `json:"max_sent"`
	Delays  []time.Duration `json:"delays,omitempty"`
	Where   *place          `json:"where,omitempty"`
	Disk    bool            `json:"disk"`
	Mode    mode            `json:"mode"`
	Other   string          `json:"other"`
}

type place struct{ Cluster string }

type mode int

func (m mode) String() string { return [...]string{"plain", "fancy"}[m] }

func (m mode) MarshalJSON() ([]byte, error) { return json.Marshal(m.String()) }

func (m *mode) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*m = mode(slices.Index([]string{"plain", "fancy"}, s))
	return nil
}

var kind = &asked.Kind[config]{
	Fields: []string{"Wait", "MaxSent", "Delays", "Where", "Disk", "Mode"},
	Always: []string{"Disk"},
	Fixed:  func(field string, _, _ *config) bool { return field == "Disk" },
	Fill: func(c *config) {
		if c.Wait == 0 {
			c.Wait = time.Second
		}
		if c.MaxSent == 0 {
			c.MaxSent = -1
		}
	},
}

func TestThreeStatesDecide(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for name, c := range map[string]struct {
		last, want, have   config
		forgotten          bool // there is no record
		now                config
		applied, kept, fix string
	}{
		"nothing differs":      {want: config{Wait: 2 * s}, last: config{Wait: 2 * s}, have: config{Wait: 2 * s}, now: config{Wait: 2 * s}},
		"the server's choices": {have: config{Wait: s, MaxSent: -1}, now: config{Wait: s, MaxSent: -1}},
		"the code has changed": {
			last: config{Wait: 2 * s}, want: config{Wait: 3 * s, Delays: []time.Duration{s}}, have: config{Wait: 2 * s, MaxSent: -1, Other: "stays"},
			now: config{Wait: 3 * s, MaxSent: -1, Delays: []time.Duration{s}, Other: "stays"}, applied: "Wait is now 3s, was 2s; Delays is now [1s], was unset",
		},
		"the code says nothing any more": {
			last: config{Wait: 2 * s, MaxSent: 7, Where: &place{"a"}, Mode: 1}, have: config{Wait: 2 * s, MaxSent: 7, Where: &place{"a"}, Mode: 1},
			now: config{}, applied: "Wait is now 1s, was 2s; MaxSent is now unlimited, was 7; Where is now unset, was {Cluster:a}; Mode is now plain, was fancy",
		},
		"the first word of the code": {want: config{MaxSent: 5}, have: config{Wait: s, MaxSent: -1}, now: config{Wait: s, MaxSent: 5}, applied: "MaxSent is now 5, was unlimited"},
		"somebody else has changed":  {last: config{Wait: 2 * s}, want: config{Wait: 2 * s}, have: config{Wait: 9 * s}, now: config{Wait: 9 * s}, kept: "Wait is 9s, not 2s"},
		"both have changed":          {last: config{Wait: 2 * s}, want: config{Wait: 3 * s}, have: config{Wait: 9 * s}, now: config{Wait: 9 * s}, kept: "Wait is 9s, not 3s"},
		"both to the same":           {last: config{Wait: 2 * s}, want: config{Wait: 9 * s}, have: config{Wait: 9 * s}, now: config{Wait: 9 * s}},
		"changed, and nobody asks":   {have: config{Wait: 9 * s, MaxSent: 4}, now: config{Wait: 9 * s, MaxSent: 4}},
		"what cannot be changed":     {last: config{Disk: true}, have: config{Disk: true}, now: config{Disk: true}, fix: "Disk is true, not false"},
		"made otherwise by us":       {last: config{Disk: true}, want: config{Disk: true}, have: config{}, now: config{}},
		"nobody remembers":           {forgotten: true, want: config{Wait: 3 * s, MaxSent: 5}, have: config{Wait: 2 * s, MaxSent: -1, Disk: true}, now: config{Wait: 2 * s, MaxSent: 5, Disk: true}, applied: "MaxSent is now 5, was unlimited", kept: "Wait is 2s, not 3s", fix: "Disk is true, not false"},
	} {
		var record asked.Record
		if !c.forgotten {
			record = asked.Parse(kind.RecordOf(c.last).String())
		}
		p := kind.Compare(record, c.want, c.have)
		if got, want := text(t, p.Config), text(t, c.now); got != want {
			t.Errorf("%s: the server gets %s, want %s", name, got, want)
		}
		if a, k, f := asked.Were(p.Apply), asked.AreNot(p.Kept), asked.AreNot(p.Fixed); a != c.applied || k != c.kept || f != c.fix {
			t.Errorf("%s: applied %q, kept %q, fixed %q", name, a, k, f)
		}
		// Once that is done, the same code changes nothing more.
		again := kind.Compare(asked.Parse(p.Record.String()), c.want, p.Config)
		if len(again.Apply) > 0 || again.Record.String() != p.Record.String() {
			t.Errorf("%s: again %v, %s and not %s", name, again.Apply, again.Record, p.Record)
		}
	}
}

func text(t *testing.T, c config) string {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDifferencesAreOfWhatTheCodeNames(t *testing.T) {
	t.Parallel()
	got := kind.Differences(config{MaxSent: 5, Wait: time.Second}, config{Wait: time.Second, MaxSent: -1, Disk: true, Mode: 1})
	if text := asked.AreNot(got); text != "MaxSent is unlimited, not 5; Disk is true, not false" {
		t.Error(text)
	}
}

func TestRecords(t *testing.T) {
	t.Parallel()
	r := kind.RecordOf(config{Wait: 5, Mode: 1, Other: "not managed"})
	r.Set("own", []string{"a"})
	if r.String() != `{"mode":"fancy","own":["a"],"wait":5}` {
		t.Error(r)
	}
	var own []string
	if asked.Parse(r.String()).Get("own", &own); !slices.Equal(own, []string{"a"}) {
		t.Error(own)
	}
	r.Set("own", nil)
	if r.String() != `{"mode":"fancy","wait":5}` {
		t.Error(r)
	}
	for _, damaged := range []string{"", "{", "7", "null", `["a"]`} {
		if r := asked.Parse(damaged); r != nil || r.Changed() != "was made before settings were remembered" {
			t.Errorf("%q is read as %v", damaged, r)
		}
	}
	// A later version may write what this one does not know.
	p := kind.Compare(asked.Parse(`{"wait":"soon","later":{"x":1},"max_sent":3}`), config{MaxSent: 4}, config{Wait: time.Second, MaxSent: 3})
	if p.Config.MaxSent != 4 || p.Record.String() != `{"later":{"x":1},"max_sent":4}` {
		t.Errorf("%+v", p)
	}
}
