// Command validate checks that the broker works with a NATS server. It publishes a
// few messages to a topic of its own, receives them through a durable consumer, and
// exits with 0 if all of them arrived.
//
//	go build -o jetstream-broker ./examples/validate
//	./jetstream-broker                           # nats://localhost:4222
//	./jetstream-broker nats://user:pw@host:4222  # another server
//
// The address can also be set with -url or NATS_URL. Stdout shows the steps. If one
// of them fails, stderr says why in one line, and the exit code is 1. Credentials
// are never printed.
//
// Like those of a service, the stream and the durable consumer stay on the server.
// A second run uses them again, and prints "Using stream" instead of "Created
// stream". If all went well, the stream is empty. To delete both, run
// nats stream rm TEST.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go-micro.dev/v5/logger"

	_ "go-micro-jetstream/examples/microtls"
)

func main() {
	url := flag.String("url", "", "`address` of the server, or a comma-separated list (default $NATS_URL, else "+defaultURL+")")
	n := flag.Int("n", 5, "how many `messages` to send")
	timeout := flag.Duration("timeout", 30*time.Second, "limit for the whole run")
	verbose := flag.Bool("v", false, "show the broker's log on stderr")
	flag.Parse()
	if *n < 1 || *timeout <= 0 || flag.NArg() > 1 || (flag.NArg() == 1 && *url != "") {
		fmt.Fprintln(flag.CommandLine.Output(), "validate: want at least one message, a positive timeout, and one address")
		flag.Usage()
		os.Exit(2)
	}

	v := validation{
		url:      cmp.Or(*url, flag.Arg(0), os.Getenv("NATS_URL"), defaultURL),
		messages: *n,
		out:      os.Stdout,
		log:      newLogger(*verbose),
	}
	if err := run(v, *timeout); err != nil {
		fmt.Fprintln(os.Stderr, "validate:", err)
		os.Exit(1)
	}
}

func run(v validation, timeout time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done after %v", timeout))
	defer cancel()
	err := v.run(ctx)
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	return err
}

// newLogger returns the logger of the broker. It is silent unless verbose, because
// the broker returns everything that matters as an error.
func newLogger(verbose bool) logger.Logger {
	if verbose {
		return logger.NewLogger(logger.WithLevel(logger.InfoLevel), logger.WithOutput(os.Stderr))
	}
	return logger.NewLogger(logger.WithLevel(logger.ErrorLevel), logger.WithOutput(io.Discard))
}
