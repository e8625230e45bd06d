// Command compare compares this broker with others that a go-micro service could use.
// It shows what happens to a message when something goes wrong, and how fast each
// library is relative to nats.go. It prints the tables in docs/comparison.md and
// docs/benchmarks.md:
//
//	cd examples/compare && go run .
//
// It is a module of its own, so that the broker does not depend on the libraries that
// it is compared with.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/logger"

	_ "go-micro-jetstream/examples/microtls"
	"go-micro-jetstream/examples/natsserver"
)

// serverVariable is an environment variable. If it is set, this process is the
// server.
const serverVariable = "COMPARE_SERVER"

// patience limits every wait, so that a failure does not hang the program. It says
// nothing about how long anything should take.
const patience = time.Minute

func main() {
	if os.Getenv(serverVariable) != "" {
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, "compare: server:", err)
			os.Exit(1)
		}
		return
	}
	rounds := flag.Int("rounds", 5, "measure each library this often, in turns")
	n := flag.Int("n", 30_000, "`messages` of a backlog; fewer for the other measurements")
	readme := flag.String("readme", "", "fail if this `file` lacks a row of the table of failures")
	flag.Parse()
	if *rounds < 1 || *n < 100 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "compare: want at least one round of 100 messages, and no arguments but flags")
		os.Exit(2)
	}
	// The libraries would log only failures that are provoked here.
	_ = logger.DefaultLogger.Init(logger.WithOutput(io.Discard))
	if err := run(*rounds, *n, *readme); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// run prints both tables. If readme is set, it fails if a row of the table of failures
// is not in that file.
func run(rounds, n int, readme string) error {
	url, stop, err := startServer()
	if err != nil {
		return err
	}
	defer stop()
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	b := &testbed{url: url, js: js}

	failures, err := b.failures()
	if err != nil {
		return err
	}
	fmt.Println(strings.Join(failures, "\n"))
	if readme != "" {
		text, err := os.ReadFile(readme)
		if err != nil {
			return err
		}
		for _, row := range failures {
			if !strings.Contains(string(text), row+"\n") {
				return fmt.Errorf("%s does not have the row\n%s", readme, row)
			}
		}
	}
	speed, err := b.speed(rounds, n)
	if err != nil {
		return err
	}
	fmt.Printf("\n%s\n\n", strings.Join(speed, "\n"))
	fmt.Printf("%d rounds, %s, %d cores, %s, nats-server %s as a process of its own, file storage.\n",
		rounds, processor(), runtime.NumCPU(), runtime.Version(), natsserver.Version)
	return nil
}

// testbed is the server that all libraries use.
type testbed struct {
	url string
	js  jetstream.JetStream
}

// prepare creates an empty stream for the topic, if the library stores messages in
// one.
func (b *testbed) prepare(p peer, topic string) error {
	if !p.stored {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := b.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: topic, Subjects: []string{topic}, Retention: p.retention, Storage: jetstream.FileStorage,
	})
	if err != nil {
		return fmt.Errorf("%s: create stream %s: %w", p.name, topic, err)
	}
	return st.Purge(ctx)
}

// startServer starts a nats-server in a process of its own. In this process, it would
// share a garbage collector with the library that is measured.
func startServer() (url string, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serverVariable+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = in.Close()
		_ = cmd.Wait()
	}
	url, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, errors.New("the server has not started")
	}
	return strings.TrimSpace(url), stop, nil
}

// serve runs the server until stdin is closed.
func serve() error {
	signal.Ignore(os.Interrupt, syscall.SIGTERM) // Ctrl-C reaches both processes; the parent ends this one
	s, err := natsserver.Start()
	if err != nil {
		return err
	}
	defer s.Stop()
	fmt.Println(s.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// processor returns the name of the processor if Linux knows it, or else the
// architecture.
func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}
