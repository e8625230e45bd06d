// Package proc helps to test the examples the way users meet them: as programs
// that are built, started, read and interrupted.
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

// Patience ends the wait for what never comes. It is no measure of speed.
const Patience = 2 * time.Minute

// Main builds the command of the package under test once, with the race
// detector if the test has it, sets *binary to its path, and runs the tests.
func Main(m *testing.M, binary *string) (code int) {
	dir, err := os.MkdirTemp("", "example-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	*binary = filepath.Join(dir, "example")
	args := []string{"build", "-o", *binary}
	if raceDetector {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// Process is a program that runs, or has run.
type Process struct {
	t      testing.TB
	cmd    *exec.Cmd
	lines  chan string // of stdout
	stdout strings.Builder
	stderr bytes.Buffer
}

// Start starts the program with these arguments and, beyond the test's own
// environment, these variables. It is killed at the end of the test if it still
// runs then.
func Start(t testing.TB, binary string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, cmd: exec.Command(binary, args...), lines: make(chan string, 1<<16)}
	// What is set where the tests run must not decide how they end.
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "OTEL_") || strings.HasPrefix(v, "NATS_") || strings.HasPrefix(v, "MICRO_")
	})
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = 10 * time.Second // for stderr, which a child that it has left would keep open
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

// Line returns the next line of stdout, io.EOF at its end.
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
		p.t.Fatalf("nothing more on stdout in %v, after:\n%s", Patience, p.stdout.String())
		return "", nil
	}
}

// Await returns the next line of stdout that contains the text.
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

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Wait waits for the end and returns the exit code and all that was printed.
func (p *Process) Wait() (code int, stdout, stderr string) {
	p.t.Helper()
	for {
		if _, err := p.Line(); err != nil {
			break
		}
	}
	if p.cmd.ProcessState != nil { // a second call
		return p.cmd.ProcessState.ExitCode(), p.stdout.String(), p.stderr.String()
	}
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode(), p.stdout.String(), p.stderr.String()
}
