package oldserver_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"go-micro-jetstream/internal/natstest"
)

// These are the last releases of each line.
const (
	v210 = "v2.10.29"
	v211 = "v2.11.12"
	v212 = "v2.12.15"
)

// programs are the servers, built once for all tests.
var programs struct {
	dir   string
	once  map[string]*sync.Once
	fails map[string]error
	mu    sync.Mutex
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "oldserver-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	programs.dir = dir
	programs.once, programs.fails = map[string]*sync.Once{}, map[string]error{}
	for _, v := range []string{v210, v211, v212} {
		programs.once[v] = &sync.Once{}
	}
	return natstest.Main(m)
}

// build returns the path of a server's program. It skips the test where that cannot
// be built, such as without a network, but not where all must be there.
func build(t *testing.T, version string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("building servers takes too long for -short")
	}
	bin := filepath.Join(programs.dir, version)
	programs.once[version].Do(func() {
		cmd := exec.Command("go", "install", "github.com/nats-io/nats-server/v2@"+version)
		cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
		programs.mu.Lock()
		defer programs.mu.Unlock()
		programs.fails[version] = err
	})
	programs.mu.Lock()
	defer programs.mu.Unlock()
	if err := programs.fails[version]; err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return filepath.Join(bin, "nats-server")
}

// server is a nats-server in a process of its own. It keeps its address and its data.
type server struct {
	cmd  *exec.Cmd
	args []string
	url  string
}

func start(t *testing.T, version string) *server {
	t.Helper()
	return startWith(t, version, "-js", "-sd", t.TempDir())
}

// startConfigured starts a server with a configuration file.
func startConfigured(t *testing.T, version, config string) *server {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return startWith(t, version, "-c", file)
}

func startWith(t *testing.T, version string, args ...string) *server {
	t.Helper()
	port := natstest.Port(t)
	s := &server{url: fmt.Sprintf("nats://127.0.0.1:%d", port)}
	s.args = append([]string{build(t, version), "-a", "127.0.0.1", "-p", fmt.Sprint(port)}, args...)
	t.Cleanup(func() { s.kill(t) })
	s.start(t)
	return s
}

// start starts the program, and waits until it answers.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "the server answers", func() bool {
		nc, err := nats.Connect(s.url)
		if err != nil {
			return false
		}
		defer nc.Close()
		js, err := nc.JetStream()
		if err == nil {
			_, err = js.AccountInfo()
		}
		return err == nil
	})
}

// kill is kill -9.
func (s *server) kill(t *testing.T) {
	t.Helper()
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}
