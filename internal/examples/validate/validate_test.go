package validate_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"go-micro-jetstream/internal/examples/proc"
	"go-micro-jetstream/internal/natstest"
)

// What the program publishes to, and the header that says which run a message is of.
const (
	topic     = "test.messages"
	runHeader = "Validation-Run"
)

var binary string

func TestMain(m *testing.M) { os.Exit(proc.Main(m, "validate", &binary)) }

// expected is the whole output of a run.
func expected(url, verb string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Connected to NATS at %s\n", url)
	fmt.Fprintf(&b, "%s stream TEST for topic test.messages\n", verb)
	b.WriteString("Subscribed to topic test.messages with durable consumer validation-queue\n")
	b.WriteString("Publishing test messages...\n")
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "Published message %d\nReceived message: Test message %d\n", i, i)
	}
	fmt.Fprintf(&b, "All %d messages received\n", n)
	return b.String()
}

func mustSucceed(t *testing.T, p *proc.Process, want string) {
	t.Helper()
	code, stdout, stderr := p.Wait()
	if code != 0 || stdout != want || stderr != "" {
		t.Errorf("exit %d, stderr %q, stdout:\n%swant:\n%s", code, stderr, stdout, want)
	}
}

// mustFail wants one line on stderr, and it to contain the text.
func mustFail(t *testing.T, p *proc.Process, text string) {
	t.Helper()
	code, stdout, stderr := p.Wait()
	if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, text) {
		t.Errorf("exit %d, stderr %q, want 1 and one line with %q; stdout:\n%s", code, stderr, text, stdout)
	}
}

func TestTwice(t *testing.T) {
	t.Parallel()
	url := natstest.Start(t).ClientURL()
	mustSucceed(t, proc.Start(t, binary, nil, url), expected(url, "Created", 5))
	mustSucceed(t, proc.Start(t, binary, []string{"NATS_URL=" + url}, "-n", "2"), expected(url, "Using", 2))
	mustSucceed(t, proc.Start(t, binary, []string{"NATS_URL=nats://localhost:1"}, "-n", "1", "-url", url), expected(url, "Using", 1))
}

// Two runs share the durable consumer: each gives back what is the other's.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	url := natstest.Start(t).ClientURL()
	mustSucceed(t, proc.Start(t, binary, nil, "-n", "1", url), expected(url, "Created", 1))
	a, b := proc.Start(t, binary, nil, url), proc.Start(t, binary, nil, url)
	mustSucceed(t, a, expected(url, "Using", 5))
	mustSucceed(t, b, expected(url, "Using", 5))
}

// What an earlier run has left goes; what somebody else has published stays.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	url := natstest.Start(t).ClientURL()
	mustSucceed(t, proc.Start(t, binary, nil, "-n", "1", url), expected(url, "Created", 1))
	_, js := natstest.Connect(t, url)
	for _, header := range []nats.Header{{runHeader: {"1700000000-ABORTED"}}, nil} {
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: topic, Header: header, Data: []byte("Test message 1")}); err != nil {
			t.Fatal(err)
		}
	}
	mustSucceed(t, proc.Start(t, binary, nil, "-n", "3", url), expected(url, "Using", 3))

	// The server works on acknowledgements after it has answered the flush.
	natstest.Eventually(t, "somebody else's message is left", func() bool { return natstest.StreamInfo(t, js, "TEST").State.Msgs == 1 })
	if msg := natstest.LastMessage(t, js, "TEST", topic); len(msg.Header) != 0 {
		t.Errorf("what is left has the header %v", msg.Header)
	}
}

func TestNoServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "nats://" + l.Addr().String()
	if err := l.Close(); err != nil { // now nobody listens there
		t.Fatal(err)
	}
	mustFail(t, proc.Start(t, binary, nil, url), "no NATS server answers at "+url)
}

func TestNoJetStream(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, func(o *server.Options) { o.JetStream = false })
	mustFail(t, proc.Start(t, binary, nil, s.ClientURL()), "has no JetStream")
}

// Whatever happens to them, credentials are not shown.
func TestCredentials(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t, func(o *server.Options) { o.Username, o.Password = "validator", "c0rrect" })
	host := strings.TrimPrefix(s.ClientURL(), "nats://")
	mustSucceed(t, proc.Start(t, binary, nil, "nats://validator:c0rrect@"+host), expected("nats://"+host, "Created", 5))
	for url, text := range map[string]string{
		host:                                "refuses the credentials",
		"nats://validator:wr0ng@" + host:    "refuses the credentials",
		"nats://validator:wr%zz0ng@" + host: "percent-encode",
		"http://validator:wr0ng@" + host:    "scheme",
	} {
		p := proc.Start(t, binary, nil, url)
		mustFail(t, p, text)
		if _, stdout, stderr := p.Wait(); strings.Contains(stdout+stderr, "validator") || strings.Contains(stdout+stderr, "0ng") {
			t.Errorf("%s: credentials shown: %s%s", url, stdout, stderr)
		}
	}
}
