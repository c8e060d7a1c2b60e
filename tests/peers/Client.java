// Java's java.net.http.HttpClient with its defaults, which also offers h2c. The arguments and the
// output are those of common.py.

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;

public class Client {
    public static void main(String[] args) throws InterruptedException {
        var left = new AtomicInteger(Integer.parseInt(args[2]));
        var body = new byte[3_000_000];
        Arrays.fill(body, (byte) 'x');
        var builder = HttpRequest.newBuilder(URI.create(args[0]))
            .header("X-Api-Key", args[1])
            .timeout(Duration.ofMillis((long) (Double.parseDouble(args[5]) * 1000)));
        if (args[3].equals("post3m")) {
            builder.POST(HttpRequest.BodyPublishers.ofByteArray(body));
        }
        var request = builder.build();
        var client = HttpClient.newHttpClient();
        List<Thread> threads = new ArrayList<>();
        for (int worker = 0; worker < Integer.parseInt(args[4]); worker++) {
            var thread = new Thread(() -> {
                while (left.getAndDecrement() > 0) {
                    System.out.println(ask(client, request));
                }
            });
            thread.start();
            threads.add(thread);
        }
        for (var thread : threads) {
            thread.join();
        }
    }

    static String ask(HttpClient client, HttpRequest request) {
        try {
            var response = client.send(request, HttpResponse.BodyHandlers.ofString());
            var headers = response.headers().map().entrySet().stream()
                .flatMap(entry -> entry.getValue().stream()
                    .map(value -> "[" + quoted(entry.getKey()) + "," + quoted(value) + "]"))
                .collect(Collectors.joining(","));
            return "{\"status\":" + response.statusCode() + ",\"headers\":[" + headers
                + "],\"body\":" + quoted(response.body()) + "}";
        } catch (IOException | InterruptedException error) {
            return "{\"error\":" + quoted(error.toString()) + "}";
        }
    }

    static String quoted(String text) {
        var quoted = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\' || c < ' ') {
                quoted.append(String.format("\\u%04x", (int) c));
            } else {
                quoted.append(c);
            }
        }
        return quoted.append('"').toString();
    }
}
