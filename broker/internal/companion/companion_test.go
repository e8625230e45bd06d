package companion

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/asset"
	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/streamapi"
	"go-micro-jetstream/broker/internal/wire"
	"go-micro-jetstream/internal/natstest"
)

// TestMain also fails the run if a goroutine outlives the tests.
func TestMain(m *testing.M) { os.Exit(natstest.Main(m)) }

// bench is a stream with a companion, and the connection to their server.
type bench struct {
	*Companions
	js     jetstream.JetStream
	nc     *nats.Conn
	proxy  *natstest.Proxy
	server *server.Server
	stream *asset.Stream
	log    natstest.LogLines
}

func newBench(t *testing.T, change ...func(*server.Options)) *bench {
	t.Helper()
	s := natstest.Start(t, change...)
	b := &bench{log: make(natstest.LogLines, 100), proxy: natstest.StartProxy(t, s), server: s}
	b.nc, b.js = natstest.Connect(t, s.ClientURL())
	natstest.MakeStream(t, b.js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, Metadata: asset.Owned(nil)})
	b.dial(t, b.proxy.URL())
	var err error
	if b.stream, err = b.api.Info(natstest.Context(t), "ORDERS"); err != nil {
		t.Fatal(err)
	}
	b.place(t)
	return b
}

// dial gives the bench companions on a connection to that address.
func (b *bench) dial(t *testing.T, url string) {
	t.Helper()
	b.dialWith(t, link.Config{Servers: []string{url}})
}

func (b *bench) dialWith(t *testing.T, cfg link.Config) {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(b.log, nil))
	conn := link.New(cfg)
	if err := conn.Dial(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b.Companions = New(conn, streamapi.New(conn))
}

func (b *bench) place(t *testing.T) {
	t.Helper()
	if l, err := b.Place(natstest.Context(t), b.stream, true); err != nil || l.Stream.Name != "ORDERS-later" {
		t.Fatalf("%+v, %v", l, err)
	}
}

func TestAMessageThatIsDueAndDoesNotArriveIsLoggedOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.patience = 0
	ctx := natstest.Context(t)
	sc := natstest.StreamInfo(t, b.js, "ORDERS").Config
	sc.MaxMsgSize = 100 // by hand
	natstest.UpdateStream(t, b.js, sc)
	m := nats.NewMsg(wire.LaterSubject("ORDERS", "orders.a", "1"))
	m.Data = make([]byte, 200)
	wire.SetSchedule(m.Header, time.Now(), wire.DueSubject("ORDERS", "orders.a"), "1", false, 0)
	if _, err := b.js.PublishMsg(ctx, m); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "it is due", func() bool {
		s, err := b.js.Stream(ctx, "ORDERS-later")
		if err != nil {
			return false
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter("_due.>"))
		return err == nil && len(info.State.Subjects) == 1
	})
	said := 0
	natstest.Eventually(t, "it is logged", func() bool {
		b.place(t)
		said += b.count("stood still in stream ORDERS-later")
		return said > 0
	})
	b.place(t)
	if said += b.count("stood still in stream ORDERS-later"); said != 1 {
		t.Errorf("logged %d times", said)
	}
	sc.MaxMsgSize = -1
	natstest.UpdateStream(t, b.js, sc)
	natstest.Eventually(t, "it arrives", func() bool { return natstest.StreamInfo(t, b.js, "ORDERS").State.Msgs == 1 })
}

// count takes the lines that were logged and counts those with the text.
func (b *bench) count(text string) (n int) {
	for {
		select {
		case line := <-b.log:
			if strings.Contains(line, text) {
				n++
			}
		default:
			return n
		}
	}
}

// The leader of the cluster may be away while both streams have their leaders.
func TestWhereMessagesWaitIsKnownWhenNobodyAnswers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	before := b.stream.Later.Load()
	b.proxy.StallAfter("STREAM.INFO.ORDERS-later")
	defer b.proxy.Resume()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	l, err := b.Place(ctx, b.stream, true)
	if err != nil || l.Stream != before.Stream || !l.Checked.After(before.Checked) {
		t.Errorf("%+v, %v", l, err)
	}
	// Without anything known it is an error.
	b.stream.Later.Store(nil)
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if l, err := b.Place(ctx, b.stream, true); err == nil {
		t.Errorf("%+v", l)
	}
}

// What is due is so by the server's clock, of which this one may be ahead.
func TestTheServersClockSaysWhatIsDue(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := clock{server: now.Add(-time.Hour), read: now}
	if due := now.Add(-time.Minute); !c.now().Before(due) {
		t.Errorf("%v is due at %v", due, c.now())
	}
	if c.now().Before(now.Add(-time.Hour)) {
		t.Error("behind the server")
	}
	if (clock{}).now().Before(now) {
		t.Error("without the server's clock the one here does not count")
	}
}

// Another process may have changed the stream since it was read.
func TestTheSourceIsAddedToWhatTheStreamIsNow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := natstest.Context(t)
	stale := natstest.StreamInfo(t, b.js, "ORDERS").Config
	stale.Sources = nil
	now := stale
	now.AllowMsgTTL, now.MaxMsgs = true, 1000
	natstest.UpdateStream(t, b.js, now)
	if err := b.addSource(ctx, &stale); err != nil {
		t.Fatal(err)
	}
	if sc := natstest.StreamInfo(t, b.js, "ORDERS").Config; sourceIn(sc) < 0 || !sc.AllowMsgTTL || sc.MaxMsgs != 1000 {
		t.Errorf("%+v", sc)
	}
	// One that has overwritten the source adds it again.
	natstest.UpdateStream(t, b.js, now)
	s, err := b.api.Info(ctx, "ORDERS")
	if err != nil {
		t.Fatal(err)
	}
	b.Relink(ctx, s)
	if sc := natstest.StreamInfo(t, b.js, "ORDERS").Config; sourceIn(sc) < 0 {
		t.Errorf("%+v", sc)
	}
}
