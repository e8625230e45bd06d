package streamapi_test

import (
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"go-micro-jetstream/broker/internal/link"
	"go-micro-jetstream/broker/internal/streamapi"
	"go-micro-jetstream/internal/natstest"
)

func TestMain(m *testing.M) { os.Exit(natstest.Main(m)) }

// Another process may undo a change before the server answers, so that the answer says
// nothing of it.
func TestEditRepeatsAChangeThatIsUndoneBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc, js := natstest.Connect(t, server.ClientURL())
	orders := natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}})
	natstest.MakeStream(t, js, jetstream.StreamConfig{Name: "LATER", Subjects: []string{"later"}})

	// It passes each request on, and undoes the first change.
	undone := false
	proxy, err := nc.Subscribe("api.>", func(m *nats.Msg) {
		request := "$JS.API." + strings.TrimPrefix(m.Subject, "api.")
		answer, err := nc.Request(request, m.Data, natstest.Patience)
		if err != nil {
			t.Error(err)
			return
		}
		if !undone && strings.HasPrefix(request, "$JS.API.STREAM.UPDATE.") {
			undone = true
			sc, err := json.Marshal(orders.Config)
			if err != nil {
				t.Error(err)
			}
			if answer, err = nc.Request(request, sc, natstest.Patience); err != nil {
				t.Error(err)
				return
			}
		}
		if err := m.Respond(answer.Data); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Unsubscribe() })

	conn := link.New(link.Config{Servers: []string{server.ClientURL()}, APIPrefix: "api", Log: slog.New(slog.DiscardHandler)})
	if err := conn.Dial(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	sc, err := streamapi.New(conn).Edit(natstest.Context(t), "ORDERS", func(sc *jetstream.StreamConfig) bool {
		missing := len(sc.Sources) == 0
		if missing {
			sc.Sources = []*jetstream.StreamSource{{Name: "LATER"}}
		}
		return missing
	})
	if err != nil || len(sc.Sources) != 1 || !undone {
		t.Errorf("%+v, %v", sc, err)
	}
	if now := natstest.StreamInfo(t, js, "ORDERS").Config; len(now.Sources) != 1 {
		t.Errorf("%+v", now)
	}
}
