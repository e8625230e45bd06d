// Command redrive looks after dead letters: it lists and shows them, publishes them to
// the topics that they came from, and drops them.
//
//	go run ./examples/redrive list dead-letters.orders
//	go run ./examples/redrive show dead-letters.orders 17
//	go run ./examples/redrive -reason "price list" -limit 100 redrive dead-letters.orders
//	go run ./examples/redrive drop dead-letters.orders 17 18
//
// NATS_URL is the address of the server, by default nats://localhost:4222. The program
// imports nothing internal: copy it into a module of your own.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go-micro.dev/v5/broker"
	"go-micro.dev/v5/logger"

	jsbroker "go-micro-jetstream/broker"
)

const usage = "usage: redrive [-topic orders.created] [-reason text] [-limit n] [-dry-run] list|show|redrive|drop dead-letter-topic [sequence...]"

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// request is what the command line asks for.
type request struct {
	command, deadLetters string
	topic, reason        string
	sequences            []uint64 // empty: all
	limit                int      // 0: none
	dryRun               bool
}

func parse(args []string) (r request, err error) {
	flags := flag.NewFlagSet("redrive", flag.ContinueOnError)
	flags.StringVar(&r.topic, "topic", "", "only letters from this topic")
	flags.StringVar(&r.reason, "reason", "", "only letters with this text in their reason")
	flags.IntVar(&r.limit, "limit", 0, "at most so many letters; 0: all")
	flags.BoolVar(&r.dryRun, "dry-run", false, "count the letters and change nothing")
	if err := flags.Parse(args); err != nil {
		return r, err
	}
	rest := flags.Args()
	if len(rest) < 2 || !slices.Contains([]string{"list", "show", "redrive", "drop"}, rest[0]) {
		return r, errors.New(usage)
	}
	r.command, r.deadLetters = rest[0], rest[1]
	for _, arg := range rest[2:] {
		sequence, err := strconv.ParseUint(arg, 10, 64)
		if err != nil {
			return r, fmt.Errorf("%s is not a sequence; %s", arg, usage)
		}
		r.sequences = append(r.sequences, sequence)
	}
	if r.command == "drop" && len(r.sequences) == 0 && r.topic == "" && r.reason == "" {
		return r, errors.New("drop removes letters for good: say which, by sequence, -topic or -reason")
	}
	return r, nil
}

// wants reports whether the request is about the letter.
func (r request) wants(l jsbroker.DeadLetter) bool {
	return (r.topic == "" || l.Topic == r.topic) && strings.Contains(l.Reason, r.reason) &&
		(len(r.sequences) == 0 || slices.Contains(r.sequences, l.Sequence))
}

func run(ctx context.Context, args []string, out io.Writer) error {
	r, err := parse(args)
	if err != nil {
		return err
	}
	url := cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL)
	quiet := logger.NewLogger(logger.WithOutput(os.Stderr), logger.WithLevel(logger.Level(slog.LevelError)))
	b := jsbroker.NewBroker(broker.Addrs(url), broker.Logger(quiet))
	if err := b.Connect(); err != nil {
		return err
	}
	defer func() { _ = b.Disconnect() }()

	var options []jsbroker.RedriveOption
	if r.limit > 0 {
		options = append(options, jsbroker.RedriveLimit(r.limit))
	}
	if r.command == "redrive" {
		options = append(options, jsbroker.RedriveFilter(r.wants))
		if r.dryRun {
			options = append(options, jsbroker.RedriveDryRun())
		}
		n, err := jsbroker.Redrive(ctx, b, r.deadLetters, options...)
		fmt.Fprintf(out, "%s%d redriven\n", dry(r), n)
		return err
	}
	// A dry run finds letters and changes nothing.
	var letters []jsbroker.DeadLetter
	options = append(options, jsbroker.RedriveDryRun(), jsbroker.RedriveFilter(func(l jsbroker.DeadLetter) bool {
		if !r.wants(l) {
			return false
		}
		switch r.command {
		case "list":
			list(out, l)
		case "show":
			show(out, l)
		default:
			l.Header, l.Body = nil, nil
			letters = append(letters, l)
		}
		return true
	}))
	if _, err := jsbroker.Redrive(ctx, b, r.deadLetters, options...); err != nil || r.command != "drop" {
		return err
	}
	return drop(ctx, url, r, letters, out)
}

func dry(r request) string {
	if r.dryRun {
		return "dry run: "
	}
	return ""
}

func list(out io.Writer, l jsbroker.DeadLetter) {
	fmt.Fprintf(out, "%d  %s  %q  queue %s  deliveries %d  redriven %d  %q\n",
		l.Sequence, l.StoredAt.UTC().Format(time.RFC3339), l.Topic, l.Queue, l.Deliveries, l.Redriven, l.Reason)
}

// show quotes the names and values: they were written by others, and may hold what
// would control the terminal.
func show(out io.Writer, l jsbroker.DeadLetter) {
	list(out, l)
	for _, key := range slices.Sorted(maps.Keys(l.Header)) {
		fmt.Fprintf(out, "  %s: %q\n", key, l.Header[key])
	}
	fmt.Fprintf(out, "  %d bytes: %q\n", len(l.Body), l.Body)
}

// drop removes letters for good.
func drop(ctx context.Context, url string, r request, letters []jsbroker.DeadLetter, out io.Writer) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	n := 0
	defer func() { fmt.Fprintf(out, "%s%d dropped\n", dry(r), n) }()
	for _, l := range letters {
		if !r.dryRun {
			stream, err := js.Stream(ctx, l.Stream)
			if err != nil {
				return err
			}
			if err := stream.DeleteMsg(ctx, l.Sequence); err != nil {
				return fmt.Errorf("letter %d: %w", l.Sequence, err)
			}
		}
		n++
	}
	return nil
}
