package live

import (
	"cmp"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	jsbroker "go-micro-jetstream/broker"
)

// snapshot is what the page shows, as JSON. Durations are in seconds.
type snapshot struct {
	Now           time.Time          `json:"now"`
	Started       time.Time          `json:"started"`
	Go            string             `json:"go"`
	Build         string             `json:"build,omitempty"`
	Connections   []connectionJSON   `json:"connections"`
	Subscriptions []subscriptionJSON `json:"subscriptions"`
	InFlight      []messageJSON      `json:"inFlight"`
	Retries       []messageJSON      `json:"retries"`
	Failures      []failureJSON      `json:"failures"`
	Topics        []topicJSON        `json:"topics"`
	Query         string             `json:"query,omitempty"`
	Found         []messageJSON      `json:"found,omitempty"`
}

type connectionJSON struct {
	Broker      string     `json:"broker"`
	Client      string     `json:"client"`
	State       string     `json:"state"`
	Server      string     `json:"server"`
	Since       time.Time  `json:"since"`
	Reconnects  int        `json:"reconnects"`
	LastError   string     `json:"lastError,omitempty"`
	LastErrorAt *time.Time `json:"lastErrorAt,omitempty"`
	AsyncUsed   int        `json:"asyncWindowUsed"`
	AsyncLimit  int        `json:"asyncWindowLimit"`
}

type subscriptionJSON struct {
	Topic       string            `json:"topic"`
	Queue       string            `json:"queue"`
	Stream      string            `json:"stream"`
	Consumer    string            `json:"consumer"`
	Since       time.Time         `json:"since"`
	Ended       *time.Time        `json:"ended,omitempty"`
	Running     int               `json:"running"`
	Concurrency int               `json:"concurrency"`
	InHand      int               `json:"inHand"` // fetched and not being handled
	Pending     uint64            `json:"pending"`
	Active      *bool             `json:"active,omitempty"` // with SingleActive
	Held        int               `json:"held,omitempty"`   // with OrderBy: messages behind stuck keys, while nothing more is fetched
	AckPending  *int              `json:"ackPending,omitempty"`
	AckLimit    int               `json:"maxAckPending,omitempty"`
	PausedUntil *time.Time        `json:"pausedUntil,omitempty"`
	Handled     map[string]uint64 `json:"handled"`
	Failures    uint64            `json:"failures"`
	Attempt     int               `json:"backoffAttempt,omitempty"`
	BackoffEnds *time.Time        `json:"backoffEnds,omitempty"`
	LastError   string            `json:"lastError,omitempty"` // of a fetch
	LastErrorAt *time.Time        `json:"lastErrorAt,omitempty"`
	LastFailure string            `json:"lastFailure,omitempty"` // of a handler
	FailedAt    *time.Time        `json:"lastFailureAt,omitempty"`
}

type messageJSON struct {
	Topic     string     `json:"topic"`
	Queue     string     `json:"queue"`
	Stream    string     `json:"stream"`
	Subject   string     `json:"subject"`
	Sequence  uint64     `json:"sequence"`
	Delivery  uint64     `json:"delivery"`
	MessageID string     `json:"messageId,omitempty"`
	TraceID   string     `json:"traceId,omitempty"`
	Size      int        `json:"size"`
	Stored    time.Time  `json:"stored"`
	State     string     `json:"state"`             // running, waits for its retry, ack, nak, ...
	Seconds   float64    `json:"seconds,omitempty"` // how long the handler runs, or ran
	Due       *time.Time `json:"due,omitempty"`
}

type failureJSON struct {
	At      time.Time   `json:"at"`
	What    string      `json:"what"`
	Result  string      `json:"result,omitempty"`
	Delay   float64     `json:"delaySeconds,omitempty"`
	Error   string      `json:"error"`
	Message messageJSON `json:"message"`
}

type topicJSON struct {
	Topic       string     `json:"topic"`
	Published   int64      `json:"published"`
	Bytes       int64      `json:"bytes"`
	Failures    int64      `json:"failures"`
	Outstanding int64      `json:"outstanding"`
	LastReason  string     `json:"lastReason,omitempty"`
	LastError   string     `json:"lastError,omitempty"`
	LastErrorAt *time.Time `json:"lastErrorAt,omitempty"`
}

// ackPendingAge is how long the number of deliveries that are not settled is shown. The
// server tells it only while no deliveries come.
const ackPendingAge = 30 * time.Second

// maxShown is how many messages in flight the page lists: those that run longest.
const maxShown = 200

// snapshot returns the state now, and what is known of the messages that the query is
// about, if there is one.
func (p *Page) snapshot(query string) snapshot {
	now := time.Now()
	s := snapshot{Now: now, Started: p.started, Go: runtime.Version(), Build: build(), Query: query, Topics: p.topics.snapshot()}
	p.mu.Lock()
	p.dropRetries(now)
	connections := make([]connection, 0, len(p.brokers))
	for _, c := range p.brokers {
		connections = append(connections, *c)
	}
	for _, r := range p.retries {
		s.Retries = append(s.Retries, r.json())
	}
	for _, f := range p.failures.latest() {
		s.Failures = append(s.Failures, f.json())
	}
	subs := slices.Concat(p.subscriptions, p.ended)
	p.mu.Unlock()

	for i := range connections {
		s.Connections = append(s.Connections, connections[i].json())
	}
	search := newSearch(query)
	for _, sub := range subs {
		state, running, recent := sub.snapshot(now)
		state.InHand = sub.waiting()
		s.Subscriptions = append(s.Subscriptions, state)
		s.InFlight = append(s.InFlight, running...)
		s.Found = append(s.Found, search.messages(running)...)
		s.Found = append(s.Found, search.messages(recent)...)
	}
	s.Found = append(s.Found, search.messages(s.Retries)...)
	for _, f := range s.Failures {
		s.Found = append(s.Found, search.messages([]messageJSON{f.Message})...)
	}
	slices.SortFunc(s.InFlight, func(a, b messageJSON) int { return cmp.Compare(b.Seconds, a.Seconds) })
	s.InFlight = s.InFlight[:min(len(s.InFlight), maxShown)]
	slices.SortFunc(s.Retries, func(a, b messageJSON) int { return a.Due.Compare(*b.Due) })
	return s
}

// build names the main module of the program, its version, and the commit that it was
// built from.
func build() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	text := info.Main.Path + " " + info.Main.Version
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision" && !strings.Contains(info.Main.Version, setting.Value[:min(len(setting.Value), 12)]):
			text += " " + setting.Value[:min(len(setting.Value), 12)]
		case setting.Key == "vcs.modified" && setting.Value == "true" && !strings.Contains(info.Main.Version, "dirty"):
			text += " (modified)"
		}
	}
	return strings.TrimSpace(text)
}

func (c *connection) json() connectionJSON {
	j := connectionJSON{
		Broker: c.broker, Client: cut(c.client), State: string(c.state), Server: cut(c.url), Since: c.since,
		Reconnects: c.reconnects, LastError: c.err, LastErrorAt: set(c.errAt),
	}
	if c.async != nil {
		j.AsyncUsed, j.AsyncLimit = c.async()
	}
	return j
}

// snapshot also returns the messages that are being handled, and those that were
// lately.
func (s *subscription) snapshot(now time.Time) (state subscriptionJSON, running, recent []messageJSON) {
	s.mu.Lock()
	defer s.mu.Unlock()
	running, recent = s.deliveries.snapshot(&s.name, now)
	state = subscriptionJSON{
		Topic: cut(s.name.Topic), Queue: cut(s.name.Queue), Stream: cut(s.name.Stream), Consumer: cut(cmp.Or(s.state.consumer, s.name.Consumer)),
		Since: s.since, Ended: set(s.state.ended), Running: len(running), Concurrency: s.most, Pending: s.state.pending,
		Held: s.state.held, Handled: s.results.byName(), Failures: s.failures,
		LastError: s.state.err, LastErrorAt: set(s.state.errAt),
		LastFailure: s.state.failure, FailedAt: set(s.state.failureAt),
	}
	if s.state.single {
		active := s.state.active
		state.Active = &active
	}
	if s.state.paused.After(now) {
		state.PausedUntil = set(s.state.paused)
	}
	if now.Sub(s.state.askedAt) < ackPendingAge {
		ackPending := s.state.ackPending
		state.AckPending, state.AckLimit = &ackPending, s.state.ackLimit
	}
	if s.state.attempt > 0 {
		state.Attempt, state.BackoffEnds = s.state.attempt, set(s.state.until)
	}
	return state, running, recent
}

// byName leaves out the results that there were none of.
func (r results) byName() map[string]uint64 {
	all := map[string]uint64{"ack": r.ack, "nak": r.nak, "term": r.term, "none": r.none}
	maps.DeleteFunc(all, func(_ string, n uint64) bool { return n == 0 })
	return all
}

func (m *message) json(of *jsbroker.Subscription, state string) messageJSON {
	return messageJSON{
		Topic: cut(of.Topic), Queue: cut(of.Queue), Stream: cut(of.Stream), Subject: cut(m.subject),
		Sequence: m.sequence, Delivery: m.delivery, MessageID: cut(m.id), TraceID: traceID(m.traceparent),
		Size: m.size, Stored: m.stored, State: state,
	}
}

func (f *failure) json() failureJSON {
	return failureJSON{
		At: f.at, What: f.what, Result: f.result, Delay: f.delay.Seconds(), Error: f.err,
		Message: f.message.json(&f.of, f.what),
	}
}

func (t *topics) snapshot() []topicJSON {
	all := slices.SortedFunc(maps.Values(*t.known.Load()), func(a, b *topic) int { return cmp.Compare(a.name, b.name) })
	list := make([]topicJSON, 0, len(all)+1)
	for _, one := range append(all, t.rest) {
		if j := one.json(); one != t.rest || j.Published+j.Failures+j.Outstanding > 0 {
			list = append(list, j)
		}
	}
	return list
}

func (t *topic) json() topicJSON {
	t.mu.Lock()
	defer t.mu.Unlock()
	return topicJSON{
		Topic: cut(t.name), Published: t.published.Load(), Bytes: t.bytes.Load(), Failures: t.failures.Load(),
		Outstanding: t.outstanding.Load(), LastReason: t.reason, LastError: t.err, LastErrorAt: set(t.errAt),
	}
}

// set returns nil for the zero time.
func set(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// search finds messages by their id, their sequence in the stream or their trace.
type search struct {
	text     string
	sequence uint64
	seen     map[string]bool
}

func newSearch(query string) *search {
	s := &search{text: strings.TrimSpace(query), seen: map[string]bool{}}
	s.sequence, _ = strconv.ParseUint(s.text, 10, 64)
	return s
}

func (s *search) messages(all []messageJSON) (found []messageJSON) {
	if s.text == "" {
		return nil
	}
	for _, m := range all {
		if m.MessageID != s.text && m.TraceID != s.text && (s.sequence == 0 || m.Sequence != s.sequence) {
			continue
		}
		key := strings.Join([]string{m.Topic, m.Queue, strconv.FormatUint(m.Sequence, 10), strconv.FormatUint(m.Delivery, 10), m.State}, "\x00")
		if !s.seen[key] {
			s.seen[key] = true
			found = append(found, m)
		}
	}
	return found
}
