package broker_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go-micro.dev/v5/broker"

	jsbroker "go-micro-jetstream/broker"
	"go-micro-jetstream/internal/natstest"
)

// A header that the client cannot read is a line in the log, and stops no queue.
func TestUnreadableHeadersAreLogged(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string]string{
		"no colon":         "NATS/1.0\r\nnothing\r\n\r\n",
		"another protocol": "HTTP/1.1\r\nA: b\r\n\r\n",
		"no end":           "NATS/1.0\r\nA: b",
		"status":           "NATS/1.0 \xff\r\nA b\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t)
			log := natstest.NewLog()
			b := newBroker(t, s, broker.Logger(log))
			publish(t, b, "orders", "first")
			sendRaw(t, s, fmt.Sprintf("HPUB orders %d %d\r\n%sbad\r\n", len(headers), len(headers)+3, headers))
			_, js := natsConn(t, s)
			eventually(t, "the stream has it", func() bool { return streamInfo(t, js, "ORDERS").State.LastSeq == 2 })
			publish(t, b, "orders", "last")
			handler, got := collector()
			subscribe(t, b, "orders", handler, broker.Queue("q"))
			for receive(t, got) != "last" {
			}
			eventually(t, "the log says so", func() bool { return len(log.With("could not decode headers")) > 0 })
		})
	}
}

// sendRaw sends what a client would not, and waits until the server has read it.
func sendRaw(t *testing.T, s *server.Server, command string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr().String())
	noErr(t, err)
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"headers\":true}\r\n%sPING\r\n", command)
	noErr(t, err)
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		noErr(t, err)
		if strings.HasPrefix(line, "PONG") {
			return
		}
	}
}

// What JetStream says of streams that no server can serve reaches the caller with the way
// out. A client answers here in the place of such a cluster.
func TestStreamsThatNobodyServesAreNamed(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the ten seconds of a Subscribe")
	}
	t.Parallel()
	for name, c := range map[string]struct {
		code, number int
		want         error
		says, reason string
	}{
		"offline":   {500, 10118, jsbroker.ErrOffline, "start the servers that hold it", "offline"},
		"no leader": {503, 10008, jsbroker.ErrClusterUnavailable, "most of its servers run", "cluster_unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, func(o *server.Options) { o.JetStream = false })
			nc, _ := natsConn(t, s)
			_, err := nc.Subscribe("$JS.API.>", func(m *nats.Msg) {
				if m.Subject == "$JS.API.INFO" {
					_ = m.Respond([]byte(`{"type":"io.nats.jetstream.api.v1.account_info_response"}`))
					return
				}
				_ = m.Respond(fmt.Appendf(nil, `{"error":{"code":%d,"err_code":%d,"description":"not now"}}`, c.code, c.number))
			})
			noErr(t, err)
			noErr(t, nc.Flush())
			b := newBroker(t, s)
			_, err = b.Subscribe("orders", ignore, broker.Queue("q"))
			wantError(t, err, c.want, c.says)
			if got := jsbroker.Reason(err); got != c.reason {
				t.Errorf("reason %q", got)
			}
			err = b.Publish("orders", message("x"))
			wantError(t, err, c.want, c.says)
		})
	}
}
