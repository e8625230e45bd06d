package broker_test

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"go-micro-jetstream/internal/natstest"
)

// What startProcess passes to a server of its own process.
const (
	serverVariable = "JSBROKER_SERVER_DIR"
	portVariable   = "JSBROKER_SERVER_PORT"
	syncVariable   = "JSBROKER_SERVER_SYNC_ALWAYS"
)

// serverProcess is a server in a process of its own: it can be killed, stopped by a
// signal, or measured apart from the broker.
type serverProcess struct {
	*process
	url string
}

// startServerProcess starts a server that keeps its data in this directory.
func startServerProcess(t testing.TB, dir string, environment ...string) *serverProcess {
	t.Helper()
	p := startProcess(t, append([]string{serverVariable + "=" + dir, portVariable + "=" + strconv.Itoa(natstest.Port(t))}, environment...)...)
	return &serverProcess{process: p, url: p.await(t, "nats://")}
}

func (p *serverProcess) ClientURL() string { return p.url }

// What the process understands, and answers when it has done it.
const (
	jetStreamOff = "JetStream off"
	jetStreamOn  = "JetStream on"
)

// do has the server do something that can be done only from within.
func (p *serverProcess) do(t testing.TB, what string) {
	t.Helper()
	if _, err := fmt.Fprintln(p.input, what); err != nil {
		t.Fatal(err)
	}
	p.await(t, what)
}

// runAsServer turns this process into a server if startServerProcess has started it: it
// prints its URL, does what its input says, and ends with that.
func runAsServer() bool {
	dir := os.Getenv(serverVariable)
	if dir == "" {
		return false
	}
	port, err := strconv.Atoi(os.Getenv(portVariable))
	if err != nil {
		panic(err)
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, SyncAlways: os.Getenv(syncVariable) != ""})
	if err != nil {
		panic(err)
	}
	s.Start()
	s.ReadyForConnections(patience)
	fmt.Println(s.ClientURL())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		obey(s, dir, in.Text())
	}
	natstest.Stop(s)
	return true
}

func obey(s *server.Server, dir, what string) {
	var err error
	switch what {
	case jetStreamOff:
		err = s.DisableJetStream()
	case jetStreamOn:
		err = s.EnableJetStream(&server.JetStreamConfig{StoreDir: dir})
	default:
		err = fmt.Errorf("what does %q mean", what)
	}
	if err != nil {
		panic(err)
	}
	fmt.Println(what)
}

// unwatched has the race detector of a process write to a file that nobody reads.
// EnableJetStream races with requests to the API inside nats-server, and here that is a
// process of its own with nothing else in it.
func unwatched(t testing.TB) (variable string) { return "GORACE=log_path=" + t.TempDir() + "/race" }
