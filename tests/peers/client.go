// Go's net/http with one client, and therefore one pool, for all workers. The arguments and the
// output are those of common.py.
package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

type line struct {
	Status  int         `json:"status,omitempty"`
	Headers [][2]string `json:"headers,omitempty"`
	Body    string      `json:"body,omitempty"`
	Error   string      `json:"error,omitempty"`
}

func main() {
	url, key, upload := os.Args[1], os.Args[2], os.Args[4] == "post3m"
	workers, seconds := int(number(os.Args[5])), number(os.Args[6])
	client := &http.Client{Timeout: time.Duration(seconds * float64(time.Second))}
	// The pool keeps a connection for each worker. By default, it keeps two idle connections per host.
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = workers
	client.Transport = transport

	requests := make(chan struct{})
	output, printing := json.NewEncoder(os.Stdout), sync.Mutex{}
	var working sync.WaitGroup
	for worker := 0; worker < workers; worker++ {
		working.Add(1)
		go func() {
			defer working.Done()
			for range requests {
				answer := ask(client, url, key, upload)
				printing.Lock()
				if err := output.Encode(answer); err != nil {
					panic(err)
				}
				printing.Unlock()
			}
		}()
	}
	for left := int(number(os.Args[3])); left > 0; left-- {
		requests <- struct{}{}
	}
	close(requests)
	working.Wait()
}

func ask(client *http.Client, url, key string, upload bool) line {
	method, body := "GET", []byte(nil)
	if upload {
		method, body = "POST", bytes.Repeat([]byte("x"), 3_000_000)
	}
	request, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	request.Header.Set("X-Api-Key", key)
	response, err := client.Do(request)
	if err != nil {
		return line{Error: err.Error()}
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return line{Error: err.Error()}
	}
	answer := line{Status: response.StatusCode, Body: string(content)}
	for name, values := range response.Header {
		for _, value := range values {
			answer.Headers = append(answer.Headers, [2]string{name, value})
		}
	}
	return answer
}

func number(text string) float64 {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic(err)
	}
	return value
}
