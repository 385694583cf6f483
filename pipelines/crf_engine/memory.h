// Arrays aligned to cache lines; what is freed is kept for the next picture.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

// Large blocks this thread has freed. Fresh memory has to be cleared by the system first, which would be a tenth of
// all the time; a thread keeps at most LIMIT bytes.
class Spares {
public:
    static Spares& of_thread() {
        static thread_local Spares spares;
        return spares;
    }

    // A block of at least `bytes`, which becomes the size it has.
    void* take(size_t& bytes) {
        int best = -1;
        for (int i = 0; i < count_; ++i)
            if (blocks_[i].bytes >= bytes && blocks_[i].bytes <= 2 * bytes &&
                (best < 0 || blocks_[i].bytes < blocks_[best].bytes))
                best = i;
        if (best >= 0) {
            const Block block = remove(best);
            bytes = block.bytes;
            return block.at;
        }
        const size_t alignment = bytes >= 4 * HUGE_PAGE ? HUGE_PAGE : 64;
        bytes = (bytes / alignment + 1) * alignment;
        void* at = std::aligned_alloc(alignment, bytes);
        if (!at) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
        // Rows of vertices are read in no order: with small pages most reads would miss the address cache as well.
        if (alignment == HUGE_PAGE) madvise(at, bytes, MADV_HUGEPAGE);
#endif
        return at;
    }

    void give(void* at, size_t bytes) {
        if (bytes < SMALL || bytes > LIMIT) return std::free(at);
        while (count_ == MOST || held_ + bytes > LIMIT) std::free(remove(0).at);
        blocks_[count_++] = {at, bytes};
        held_ += bytes;
    }

    ~Spares() {
        while (count_) std::free(remove(0).at);
    }

private:
    static constexpr size_t SMALL = 1 << 16, HUGE_PAGE = 2 << 20, LIMIT = 160 << 20;
    static constexpr int MOST = 64;
    struct Block {
        void* at;
        size_t bytes;
    };

    Block remove(int i) {
        const Block block = blocks_[i];
        std::memmove(blocks_ + i, blocks_ + i + 1, (--count_ - i) * sizeof(Block));
        held_ -= block.bytes;
        return block;
    }

    Block blocks_[MOST];
    int count_ = 0;
    size_t held_ = 0;
};

template <class T>
class Array {
    static_assert(std::is_trivially_copyable<T>::value);

public:
    Array() = default;
    explicit Array(size_t size) { reserve(size), size_ = size; }
    Array(size_t size, int byte) : Array(size) { std::memset(static_cast<void*>(data_), byte, size * sizeof(T)); }
    Array(Array&& other) noexcept { swap(other); }
    Array& operator=(Array&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Array() {
        if (data_) Spares::of_thread().give(data_, bytes_);
    }

    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }
    T* data() { return data_; }
    const T* data() const { return data_; }
    size_t size() const { return size_; }

    // Room for so many in all. The system backs what is touched, so a generous guess costs nothing.
    void expect(size_t capacity) {
        if (capacity * sizeof(T) > bytes_) reserve(capacity);
    }

    // Room for `more` elements past the end, which the caller fills; returns the first of them.
    T* extend(size_t more) {
        if ((size_ + more) * sizeof(T) > bytes_) reserve(size_ + more + size_ / 2);
        size_ += more;
        return data_ + size_ - more;
    }

private:
    void swap(Array& other) noexcept {
        std::swap(data_, other.data_), std::swap(size_, other.size_), std::swap(bytes_, other.bytes_);
    }

    void reserve(size_t capacity) {
        size_t bytes = capacity * sizeof(T);
        T* fresh = static_cast<T*>(Spares::of_thread().take(bytes));
        if (size_) std::memcpy(static_cast<void*>(fresh), data_, size_ * sizeof(T));
        if (data_) Spares::of_thread().give(data_, bytes_);
        data_ = fresh, bytes_ = bytes;
    }

    T* data_ = nullptr;
    size_t size_ = 0, bytes_ = 0;
};
