package goroutine_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go-micro-jetstream/broker/internal/goroutine"
)

type task func()

func (t task) Run() { t() }

func TestQueueKeepsTheOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q goroutine.Queue
		var got []int // without a lock: tasks never run together
		for i := range 100 {
			q.Add(task(func() {
				time.Sleep(time.Millisecond)
				got = append(got, 2*i)
				q.Add(task(func() { got = append(got, 200+i) })) // behind all others
			}))
		}
		if q.Len() != 100 {
			t.Errorf("%d tasks, want 100", q.Len())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		var want []int
		for i := range 100 {
			want = append(want, 2*i)
		}
		for i := range 100 {
			want = append(want, 200+i)
		}
		if !slices.Equal(got, want) {
			t.Errorf("ran %v", got)
		}
		if q.Len() != 0 {
			t.Errorf("%d tasks left", q.Len())
		}
	})
}

// synctest.Test fails if a goroutine is left that never ends.
func TestQueueStartsAgainAfterItWasEmpty(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q goroutine.Queue
		n := 0
		for want := 1; want <= 3; want++ {
			q.Add(task(func() { n++ }))
			synctest.Wait()
			if n != want || q.Len() != 0 {
				t.Fatalf("%d tasks have run, want %d; %d left", n, want, q.Len())
			}
		}
	})
}

func TestQueueOfManyGoroutinesRunsEachTaskOnce(t *testing.T) {
	t.Parallel()
	var q goroutine.Queue
	n := 0
	var added, ran sync.WaitGroup
	for range 20 {
		added.Go(func() {
			for range 500 {
				ran.Add(1)
				q.Add(task(func() {
					n++
					ran.Done()
				}))
			}
		})
	}
	added.Wait()
	ran.Wait()
	if n != 20*500 {
		t.Errorf("%d tasks have run", n)
	}
}

func TestGoexitOfATaskDoesNotStopTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q goroutine.Queue
		var got []int
		for i := range 6 {
			q.Add(task(func() {
				got = append(got, i)
				if !q.RunsOn(goroutine.ID()) {
					t.Errorf("task %d does not run on the queue", i)
				}
				if i%2 == 1 { // the last one too
					runtime.Goexit()
				}
			}))
		}
		synctest.Wait()
		if !slices.Equal(got, []int{0, 1, 2, 3, 4, 5}) || q.Len() != 0 {
			t.Errorf("ran %v, %d left", got, q.Len())
		}
		q.Add(task(func() { got = nil }))
		synctest.Wait()
		if got != nil {
			t.Error("the queue does not start again")
		}
	})
}

func TestRunsOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q, other goroutine.Queue
		if q.RunsOn(0) || q.RunsOn(goroutine.ID()) {
			t.Error("an unused queue runs somewhere")
		}
		q.Add(task(func() {
			if id := goroutine.ID(); !q.RunsOn(id) || other.RunsOn(id) || q.RunsOn(0) {
				t.Error("the task runs elsewhere")
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				if q.RunsOn(goroutine.ID()) {
					t.Error("a goroutine of the task is the queue's")
				}
			})
			wg.Wait()
		}))
		synctest.Wait()
		if q.RunsOn(goroutine.ID()) {
			t.Error("the test runs on the queue")
		}
	})
}

func TestAwaitRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q goroutine.Queue
		for range 5 {
			q.Add(task(func() { time.Sleep(time.Second) }))
		}
		began := time.Now()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { // five tasks: fewer than three when three are over
				if err := q.AwaitRoom(t.Context(), 3); err != nil || time.Since(began) != 3*time.Second {
					t.Errorf("%v after %v", err, time.Since(began))
				}
			})
		}
		if err := q.AwaitRoom(t.Context(), 6); err != nil || time.Since(began) != 0 {
			t.Errorf("%v after %v although there is room", err, time.Since(began))
		}
		wg.Wait()
		if err := q.AwaitRoom(t.Context(), 1); err != nil || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestAwaitRoomEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q goroutine.Queue
		release := make(chan struct{})
		q.Add(task(func() { <-release }))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := q.AwaitRoom(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		close(release)
		if err := q.AwaitRoom(t.Context(), 1); err != nil {
			t.Errorf("%v", err)
		}
	})
}

// A task must not wait for the end of tasks, of which it is one.
func TestAwaitRoomReturnsAtOnceInATask(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q goroutine.Queue
		returned := false
		q.Add(task(func() { returned = q.AwaitRoom(t.Context(), 1) == nil }))
		synctest.Wait()
		if !returned {
			t.Error("it did not return")
		}
	})
}

func BenchmarkQueue(b *testing.B) {
	var q goroutine.Queue
	var t goroutine.Task = task(func() {})
	b.ReportAllocs()
	for b.Loop() {
		if err := q.AwaitRoom(b.Context(), 1000); err != nil {
			b.Fatal(err)
		}
		q.Add(t)
	}
}
