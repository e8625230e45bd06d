// Package proc tests the examples the way users run them: it builds, starts and
// interrupts them as programs, and reads their output.
package proc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Patience limits every wait, so that a test fails instead of hanging. It says
// nothing about how long anything should take.
const Patience = 2 * time.Minute

// Main builds the example with that name, sets *binary to the path of the program,
// runs the tests and returns the exit code. The program is built with the race
// detector if the test is. Call it from TestMain.
func Main(m *testing.M, example string, binary *string) (code int) {
	dir, err := os.MkdirTemp("", "example-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	*binary = filepath.Join(dir, example)
	args := []string{"build", "-o", *binary}
	if raceDetector {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "go-micro-jetstream/examples/"+example)...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// Process is a program that is running or has ended.
type Process struct {
	t      testing.TB
	cmd    *exec.Cmd
	lines  chan string     // of stdout, closed at its end
	stdout strings.Builder // the lines read so far
	stderr bytes.Buffer
}

// Start starts the program. It adds env to the environment of the test, without the
// test's own OTEL_, NATS_ and MICRO_ variables. If the program is still running at
// the end of the test, it is killed.
func Start(t testing.TB, binary string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, cmd: exec.Command(binary, args...), lines: make(chan string, 1<<16)}
	// The result must not depend on what is set on the machine that runs the tests.
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "OTEL_") || strings.HasPrefix(v, "NATS_") || strings.HasPrefix(v, "MICRO_")
	})
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = 10 * time.Second // a child left behind would keep stderr open
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for r := bufio.NewReader(out); ; {
			line, err := r.ReadString('\n')
			if line != "" {
				p.lines <- strings.TrimSuffix(line, "\n")
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	return p
}

// Line waits for the next line of stdout and returns it, or io.EOF at the end of
// stdout.
func (p *Process) Line() (string, error) {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			return "", io.EOF
		}
		p.stdout.WriteString(line + "\n")
		return line, nil
	case <-time.After(Patience):
		p.t.Fatalf("no further line on stdout within %v, after:\n%s", Patience, p.stdout.String())
		return "", nil
	}
}

// Await waits for a line of stdout that contains the text and returns it.
func (p *Process) Await(text string) string {
	p.t.Helper()
	for {
		line, err := p.Line()
		if err != nil {
			code, stdout, stderr := p.Wait()
			p.t.Fatalf("exit %d without %q on stdout:\n%s%s", code, text, stdout, stderr)
		}
		if strings.Contains(line, text) {
			return line
		}
	}
}

// Signal sends a signal to the program.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Wait waits for the program to end and returns its exit code and everything that
// it printed. It may be called again.
func (p *Process) Wait() (code int, stdout, stderr string) {
	p.t.Helper()
	for {
		if _, err := p.Line(); err != nil {
			break
		}
	}
	if p.cmd.ProcessState != nil { // called again
		return p.cmd.ProcessState.ExitCode(), p.stdout.String(), p.stderr.String()
	}
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode(), p.stdout.String(), p.stderr.String()
}
